//! A whole archive into a directory, in one pass: nothing of it is there until all of it is right.
//!
//! ```text
//! push() ─► Input ─► layers (codecs) ─► walk (entries) ─► tree (files, within a staging directory)
//!             └────► hasher (digest of the source)
//! ```

mod layers;
mod staging;
mod tree;
mod walk;

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::codecs::Kind;
use crate::conversion::hasher::{Beside, Feed, Hasher};
use crate::conversion::input::Taken;
use crate::conversion::shared::Counters;
use crate::conversion::{Intake, Progress, SourceDigest};
use crate::error::{Code, Error, Result, Stage};
use crate::limits::Limits;

use self::layers::Layers;
use self::staging::Staging;
use self::tree::Tree;
use self::walk::Walk;

/// Input slabs: they are let go of at once.
const SLABS: usize = 4;

pub struct Options {
    /// A directory, which is made if it does not exist.
    pub target: PathBuf,
    /// Whatever is in it goes.
    pub replace: bool,
    pub source_length: Option<u64>,
    pub digest: Option<SourceDigest>,
    /// What is around the archive, outermost first; else it is found out.
    pub codecs: Option<Vec<Kind>>,
    pub limits: Limits,
}

#[derive(Clone, Debug)]
pub struct Unpacked {
    /// Outermost first.
    pub codecs: Vec<&'static str>,
    pub entries: u64,
    /// Of files, without their holes.
    pub bytes: u64,
    /// Entries of kinds that are not known, which were left out.
    pub passed: u64,
    pub source_bytes: u64,
    pub source_digest: SourceDigest,
}

/// One unpacking under way. Dropping it aborts.
pub struct Unpacking {
    intake: Intake,
    /// Guards what `finish` and `abort` consume.
    rest: Mutex<Option<Rest>>,
}

struct Rest {
    intake: Intake,
    staging: Staging,
    threads: [JoinHandle<()>; 2],
    walked: Arc<Mutex<Option<Walked>>>,
    hashed: Arc<Mutex<Option<Hasher>>>,
    digest: Option<SourceDigest>,
}

/// What the thread that unpacks came to.
struct Walked {
    layers: Layers,
    walk: Walk,
    source_length: u64,
}

impl Unpacking {
    /// Makes the staging directory and starts the threads. Errors as of the target, see `staging.rs`.
    pub fn start(options: Options) -> Result<Self> {
        let staging = Staging::begin(&options.target, options.replace)?;
        let tree = Tree::new(staging.path())?;
        let directory = tree.root()?;
        let walk = Walk::new(tree, staging.room()?);
        let intake = Intake::new(SLABS);
        let (walked, hashed) = (Arc::new(Mutex::new(None)), Arc::new(Mutex::new(None)));
        let (feed, fed) = mpsc::channel();
        let hasher = Hasher::new(Beside::of(options.digest));
        let hash = {
            // There are no checkpoints that would want to know how far it came.
            let (notes, _) = mpsc::channel();
            let hashed = Arc::clone(&hashed);
            intake.shared.spawn("hash", Stage::Source, None, move || hasher.run_to(&fed, &notes, &hashed))?
        };
        let digest = options.digest;
        let unpack = {
            let (intake, walked) = (intake.clone(), Arc::clone(&walked));
            intake.shared.clone().spawn("unpack", Stage::Decode, Some(directory), move || {
                let done = run(&intake, &feed, walk, &options)?;
                *walked.lock().unwrap_or_else(PoisonError::into_inner) = Some(done);
                intake.requests.finish();
                intake.shared.wake();
                Ok(())
            })?
        };
        let rest = Rest { intake: intake.clone(), staging, threads: [unpack, hash], walked, hashed, digest };
        Ok(Self { intake, rest: Mutex::new(Some(rest)) })
    }

    pub fn intake(&self) -> &Intake {
        &self.intake
    }

    pub fn progress(&self) -> Progress {
        let c = &self.intake.shared.counters;
        Progress {
            source_bytes: c.source.load(Ordering::Relaxed),
            written: c.written.load(Ordering::Relaxed),
            decode_starved: c.decode_starved_ns.load(Ordering::Relaxed),
            workers: 1,
            ..Progress::default()
        }
    }

    /// Verifies, flushes, and puts what was unpacked in its place. Blocks; to be called once, after `next` answered Finished.
    pub fn finish(&self) -> Result<Unpacked> {
        let rest = self.rest.lock().unwrap_or_else(PoisonError::into_inner).take();
        rest.ok_or_else(Error::aborted)?.finish()
    }

    /// Stops the threads and removes what was unpacked. May be called any number of times.
    pub fn abort(&self) {
        self.intake.shared.fail(Error::aborted());
        if let Some(rest) = self.rest.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // A panic inside has become the failure already.
            rest.threads.into_iter().for_each(|thread| drop(thread.join()));
        }
    }
}

impl Drop for Unpacking {
    fn drop(&mut self) {
        self.abort();
    }
}

fn run(intake: &Intake, feed: &Sender<Feed>, mut walk: Walk, options: &Options) -> Result<Walked> {
    let counters = &intake.shared.counters;
    let mut layers = Layers::new(&options.limits, options.codecs.as_deref());
    intake.input.begin_round();
    intake.requests.rest(0);
    intake.shared.wake();
    loop {
        match intake.input.take()? {
            Taken::Piece(piece) => {
                Counters::add(&counters.source, piece.bytes.len() as u64);
                intake.shared.check()?;
                let bytes = piece.bytes.clone();
                // The digest's thread works on the same slab.
                let _ = feed.send(Feed::Piece(piece));
                layers.push(&bytes, &mut walk)?;
                counters.written.store(walk.bytes, Ordering::Relaxed);
            }
            Taken::Ended(length) => {
                if let Some(expected) = options.source_length.filter(|expected| *expected != length) {
                    let what = format!("the source was to have {expected} bytes and ended at {length}");
                    return Err(Error::new(Code::Truncated, Stage::Source, what));
                }
                layers.finish(&mut walk)?;
                return Ok(Walked { layers, walk, source_length: length });
            }
            Taken::RoundOver => {
                return Err(Error::new(Code::Truncated, Stage::Source, "the source stopped before its end"));
            }
        }
    }
}

impl Rest {
    fn finish(self) -> Result<Unpacked> {
        self.threads.into_iter().for_each(|thread| drop(thread.join()));
        self.intake.shared.check()?;
        let walked = self.walked.lock().unwrap_or_else(PoisonError::into_inner).take().ok_or_else(Error::aborted)?;
        let hasher = self.hashed.lock().unwrap_or_else(PoisonError::into_inner).take().ok_or_else(Error::aborted)?;
        let (found, weak) = hasher.finish(Some(walked.source_length))?.ok_or_else(Error::aborted)?;
        let against = if self.digest.is_some_and(SourceDigest::is_weak) { weak } else { Some(found) };
        if let Some(expected) = self.digest
            && against != Some(expected)
        {
            let what = format!(
                "the source's digest is {}, {expected} was demanded: nothing was unpacked",
                against.unwrap_or(found)
            );
            return Err(Error::new(Code::DigestMismatch, Stage::Verify, what));
        }
        self.staging.take_place()?;
        let Walked { layers, walk, source_length } = walked;
        Ok(Unpacked {
            codecs: layers.names(),
            entries: walk.entries,
            bytes: walk.bytes,
            passed: walk.passed,
            source_bytes: source_length,
            source_digest: found,
        })
    }
}
