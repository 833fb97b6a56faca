//! Compresses single clusters, and undoes it.

use std::sync::{Mutex, PoisonError};

use crate::error::{Code, Error, Result, Stage};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Raw deflate streams (docs/interop/qcow2.txt, "compression_type": 0).
    Zlib,
    /// One frame a cluster (1).
    Zstd,
}

impl Compression {
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "zlib" => Some(Self::Zlib),
            "zstd" => Some(Self::Zstd),
            _ => None,
        }
    }
}

/// Both at the level that their authors take by default, as QEMU does.
const ZLIB_LEVEL: i32 = 6;
const ZSTD_LEVEL: i32 = 3;

/// One thread's tools.
enum Tools {
    Zlib(Box<(libdeflater::Compressor, libdeflater::Decompressor)>),
    Zstd(Box<(zstd_safe::CCtx<'static>, zstd_safe::DCtx<'static>)>),
}

pub struct Packers {
    how: Compression,
    /// Tools that nobody uses at the moment; guards the list only. There are never more than threads.
    free: Mutex<Vec<Tools>>,
}

fn failed(what: String) -> Error {
    Error::new(Code::Io, Stage::Target, what)
}

impl Packers {
    pub fn new(how: Compression) -> Self {
        Self { how, free: Mutex::default() }
    }

    fn with<T>(&self, run: impl FnOnce(&mut Tools) -> T) -> T {
        let idle = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut tools = idle.unwrap_or_else(|| match self.how {
            Compression::Zlib => {
                let level = libdeflater::CompressionLvl::new(ZLIB_LEVEL).unwrap_or_default();
                Tools::Zlib(Box::new((libdeflater::Compressor::new(level), libdeflater::Decompressor::new())))
            }
            Compression::Zstd => Tools::Zstd(Box::new((zstd_safe::CCtx::create(), zstd_safe::DCtx::create()))),
        });
        let answer = run(&mut tools);
        self.free.lock().unwrap_or_else(PoisonError::into_inner).push(tools);
        answer
    }

    /// Compresses a cluster to the end of `out`; the bytes, or None where it does not get any shorter.
    pub fn pack(&self, cluster: &[u8], out: &mut Vec<u8>) -> Option<usize> {
        let from = out.len();
        // A compressed cluster is shorter than one that is not, so no more room than that is wanted.
        out.resize(from + cluster.len() - 1, 0);
        let packed = self.with(|tools| match tools {
            Tools::Zlib(tools) => tools.0.deflate_compress(cluster, &mut out[from..]).ok(),
            Tools::Zstd(tools) => tools.0.compress(&mut out[from..], cluster, ZSTD_LEVEL).ok(),
        });
        out.truncate(from + packed.unwrap_or(0));
        packed
    }

    /// `packed` may have anything behind its end.
    pub fn unpack(&self, packed: &[u8], cluster: &mut [u8]) -> Result<()> {
        let length = cluster.len();
        let unpacked = self.with(|tools| match tools {
            Tools::Zlib(tools) => tools.1.deflate_decompress(packed, cluster).ok(),
            Tools::Zstd(tools) => {
                let whole = zstd_safe::find_frame_compressed_size(packed).ok();
                whole.and_then(|n| tools.1.decompress(cluster, &packed[..n]).ok())
            }
        });
        if unpacked == Some(length) {
            return Ok(());
        }
        Err(failed(format!("a cluster of {length} bytes cannot be read back as it was written: the target is damaged")))
    }
}
