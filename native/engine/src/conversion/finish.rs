//! The end of a conversion: everything written and verified, then the held ends (design, decision 4).

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, mpsc::Sender};
use std::thread::JoinHandle;

use crate::digest;
use crate::error::{Code, Error, Result, Stage};
use crate::journal::{self, Finishing, Journal};
use crate::targets::{Kind, Target, qcow2};
use crate::zeros::data_runs;

use super::checkpoint::Note;
use super::decoder::Decoded;
use super::ends::HELD;
use super::hasher::{Hasher, SourceDigest};
use super::jobs::Jobs;
use super::seal::{Held, Sealing, clear_beyond, complete_digest};
use super::shared::Shared;
use super::worker::Sinkhole;
use super::{Options, Report};

/// What `finish` and `abort` need of a conversion.
pub struct Rest {
    pub shared: Arc<Shared>,
    pub to: Arc<Sinkhole>,
    pub jobs: Arc<Jobs>,
    pub journal: Arc<Mutex<Option<Journal>>>,
    pub notes: Sender<Note>,
    pub threads: Vec<JoinHandle<()>>,
    pub hash_thread: JoinHandle<()>,
    pub checkpoint_thread: JoinHandle<()>,
    pub decode_thread: JoinHandle<()>,
    pub decoded: Arc<Mutex<Option<Decoded>>>,
    pub hashed: Arc<Mutex<Option<Hasher>>>,
    pub past_finishing: Option<Finishing>,
    pub resumes: u32,
    pub options: Options,
}

/// Everything the threads came to.
struct Done {
    shared: Arc<Shared>,
    to: Arc<Sinkhole>,
    decoded: Decoded,
    source_digest: Option<SourceDigest>,
    /// Where it was demanded.
    source_weak: Option<SourceDigest>,
    past_finishing: Option<Finishing>,
    resumes: u32,
    options: Options,
}

fn mismatch(what: &str, expected: &str, found: &str) -> Error {
    let message = format!("the {what} is {found}, {expected} was demanded: the target was not made bootable");
    Error::new(Code::DigestMismatch, Stage::Verify, message)
}

impl Rest {
    /// Waits for all threads; the conversion was stopped or has failed.
    pub fn join(self) {
        self.jobs.close();
        let _ = self.notes.send(Note::Close);
        let threads = self.threads.into_iter().chain([self.decode_thread, self.hash_thread, self.checkpoint_thread]);
        for thread in threads {
            // A panic inside has become the conversion's failure already.
            let _ = thread.join();
        }
        let journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner).take();
        void(&self.shared, &self.options.identity, journal.as_ref());
    }

    /// In the order of the bytes: the decoder ends, the workers run dry, then hasher and checkpointer.
    fn drain(self) -> Result<(Done, Option<Journal>)> {
        let shared = Arc::clone(&self.shared);
        let _ = self.decode_thread.join();
        self.jobs.close();
        for thread in self.threads {
            let _ = thread.join();
        }
        let _ = self.hash_thread.join();
        let _ = self.notes.send(Note::Close);
        let _ = self.checkpoint_thread.join();
        if let Err(error) = shared.check() {
            let journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner).take();
            void(&shared, &self.options.identity, journal.as_ref());
            return Err(error);
        }
        let take = |what: &'static str| Error::new(Code::Io, Stage::Verify, what);
        let decoded = self.decoded.lock().unwrap_or_else(PoisonError::into_inner).take();
        let decoded = decoded.ok_or_else(|| take("the decoder left no result"))?;
        let hasher = self.hashed.lock().unwrap_or_else(PoisonError::into_inner).take();
        let found = match hasher {
            Some(hasher) if self.past_finishing.is_none() => hasher.finish(decoded.source_length)?,
            _ => None,
        };
        let journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner).take();
        let done = Done {
            shared,
            to: self.to,
            decoded,
            source_digest: found.map(|(digest, _)| digest),
            source_weak: found.and_then(|(_, weak)| weak),
            past_finishing: self.past_finishing,
            resumes: self.resumes,
            options: self.options,
        };
        Ok((done, journal))
    }

    pub fn finish(self) -> Result<Report> {
        let shared = Arc::clone(&self.shared);
        let (done, mut journal) = self.drain()?;
        let result =
            if done.past_finishing.is_some() { done.finish_again(&mut journal) } else { done.finish(&mut journal) };
        if let Err(error) = &result {
            shared.fail(error.clone());
            void(&shared, &done.options.identity, journal.as_ref());
        }
        result
    }
}

impl Done {
    fn verify_source(&self) -> Result<()> {
        let Some(expected) = self.options.digest else { return Ok(()) };
        match if expected.is_weak() { self.source_weak } else { self.source_digest } {
            Some(found) if found == expected => Ok(()),
            Some(found) => Err(mismatch("source's digest", &expected.to_string(), &found.to_string())),
            None => {
                let what = "the source was not read whole, so its digest cannot be checked";
                Err(Error::new(Code::DigestMismatch, Stage::Verify, what))
            }
        }
    }

    fn finish(&self, journal: &mut Option<Journal>) -> Result<Report> {
        let target = Arc::clone(&self.to.target);
        let kind = target.facts().kind;
        let length = match self.options.size {
            None if kind == Kind::Image => qcow2::whole_sectors(self.decoded.image_length),
            size => size.unwrap_or(self.decoded.image_length),
        };
        for gathered in self.to.leaves.drain() {
            self.to.gathered(&gathered, Some(length))?;
        }
        self.verify_source()?;
        if kind == Kind::File {
            target.set_length(length.max(HELD))?;
            // Of a raw disk in a codec it was not known before how much is to be reserved.
            if self.options.preallocate {
                target.preallocate(length)?;
            }
        } else if kind == Kind::Block && !self.options.onto {
            clear_beyond(&*target, length, &|| self.shared.check())?;
        } else if kind == Kind::Image {
            target.set_length(length)?;
        }
        let (head, tail_at, tail) = self.to.ends.take();
        let held = Held { head, tail_at, tail };
        target.flush()?;
        let reread = complete_digest(&self.to.digest, &target, length, &held, &|| self.shared.check())?;
        let disk_digest = self.to.digest.finish(length)?;
        self.demand_disk_digest(&disk_digest)?;
        let report = self.report(length, disk_digest, reread, held.head.len() + held.tail.len());
        if kind == Kind::Image {
            for (at, bytes) in [(0, &held.head), (held.tail_at, &held.tail)] {
                data_runs(bytes, target.grain())
                    .try_for_each(|run| target.write(at + run.start as u64, &bytes[run]))?;
            }
            target.commit()?;
        }
        let finishing = Finishing {
            identity_hash: journal::hash(self.options.identity.as_bytes()),
            virtual_size: length,
            disk_digest,
            source_digest: self.source_digest.map(short),
            head_hash: journal::hash(&held.head),
            written: report.written,
            zeroed: report.zeroed,
            skipped: report.skipped,
            resumes: self.resumes,
        };
        self.sealing(&*target, length, disk_digest).seal(journal.take(), finishing, &held)?;
        Ok(report)
    }

    fn sealing<'a>(&'a self, target: &'a dyn Target, length: u64, disk_digest: [u8; 32]) -> Sealing<'a> {
        Sealing {
            target,
            length,
            disk_digest,
            identity: &self.options.identity,
            marked: self.options.marked.as_deref(),
            preallocate: self.options.preallocate,
            failpoint: self.options.failpoint.as_deref(),
        }
    }

    fn finish_again(&self, journal: &mut Option<Journal>) -> Result<Report> {
        let target = Arc::clone(&self.to.target);
        let f = self.past_finishing.clone().ok_or_else(Error::aborted)?;
        let length = f.virtual_size;
        self.demand_disk_digest(&f.disk_digest)?;
        // A weak one is not in the record; the identity, which is, names it.
        let demanded = self.options.digest.filter(|digest| !digest.is_weak());
        if demanded.is_some() && demanded.map(short) != f.source_digest {
            let what =
                "the transfer that is being finished was verified against another digest; run again with --fresh";
            return Err(Error::new(Code::DigestMismatch, Stage::Verify, what));
        }
        let (head, _, _) = self.to.ends.take();
        let journal = journal.take().ok_or_else(Error::aborted)?;
        self.sealing(&*target, length, f.disk_digest).seal_again(journal, &head)?;
        Ok(Report {
            virtual_size: length,
            source_bytes: self.shared.counters.source.load(Ordering::Relaxed),
            written: f.written,
            zeroed: f.zeroed,
            skipped: f.skipped,
            // A SHA-512 is longer than the record's room: then only its comparison is left.
            source_digest: demanded.or(f.source_digest.map(SourceDigest::Sha256)),
            disk_digest: f.disk_digest,
            reread: 0,
            resumes: self.resumes,
            checkpoints: 0,
        })
    }

    fn demand_disk_digest(&self, found: &[u8; 32]) -> Result<()> {
        match self.options.disk_digest {
            Some(expected) if expected != *found => {
                Err(mismatch("disk digest", &digest::to_text(&expected), &digest::to_text(found)))
            }
            _ => Ok(()),
        }
    }

    fn report(&self, length: u64, disk_digest: [u8; 32], reread: u64, ends: usize) -> Report {
        let c = &self.shared.counters;
        // What was written after the last checkpoint of a killed run was written twice; the disk has each byte once.
        let written = (c.written.load(Ordering::Relaxed) + ends as u64).min(length);
        let zeroed = c.zeroed.load(Ordering::Relaxed).min(length - written);
        let read = c.source.load(Ordering::Relaxed);
        Report {
            virtual_size: length,
            source_bytes: if self.source_digest.is_some() { self.decoded.source_length.unwrap_or(read) } else { read },
            written,
            zeroed,
            skipped: length - written - zeroed,
            source_digest: self.source_digest,
            disk_digest,
            reread,
            resumes: self.resumes,
            checkpoints: c.checkpoints.load(Ordering::Relaxed),
        }
    }
}

/// Takes the checkpoints away when what was written before them may be wrong, so that the next run begins anew and
/// does not fail for ever. The record that this is an unfinished transfer of ours stays.
fn void(shared: &Shared, identity: &str, journal: Option<&Journal>) {
    let wrong =
        shared.failure().is_some_and(|e| matches!(e.code, Code::Corrupt | Code::DigestMismatch | Code::Changed));
    let Some(journal) = journal.filter(|journal| wrong && journal.ensure_ours().is_ok()) else { return };
    // The failure itself is what people are told; a journal that cannot be written is no worse than an old one.
    let _ = journal.begin_again(identity);
}

/// What the finishing record has room for: a SHA-256, or the first half of a SHA-512.
fn short(digest: SourceDigest) -> [u8; 32] {
    match digest {
        SourceDigest::Sha256(bytes) => bytes,
        SourceDigest::Sha512(bytes) => std::array::from_fn(|i| bytes[i]),
        // Never the digest of the source that is shown.
        SourceDigest::Crc32c(_) | SourceDigest::Md5(_) | SourceDigest::Sha1(_) => [0; 32],
    }
}
