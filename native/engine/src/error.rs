//! The one error of the engine. It crosses to TypeScript as a `FerryError` with the same fields.

use std::fmt;

/// What went wrong. The names are part of the public contract (docs/errors.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    BadSpec,
    NotFound,
    Denied,
    Changed,
    Truncated,
    Corrupt,
    Unsafe,
    Encrypted,
    Unsupported,
    TooLarge,
    NoSpace,
    Busy,
    Stalled,
    NeedsScratch,
    DigestMismatch,
    Io,
    Aborted,
}

impl Code {
    pub fn name(self) -> &'static str {
        match self {
            Code::BadSpec => "BAD_SPEC",
            Code::NotFound => "NOT_FOUND",
            Code::Denied => "DENIED",
            Code::Changed => "CHANGED",
            Code::Truncated => "TRUNCATED",
            Code::Corrupt => "CORRUPT",
            Code::Unsafe => "UNSAFE",
            Code::Encrypted => "ENCRYPTED",
            Code::Unsupported => "UNSUPPORTED",
            Code::TooLarge => "TOO_LARGE",
            Code::NoSpace => "NO_SPACE",
            Code::Busy => "BUSY",
            Code::Stalled => "STALLED",
            Code::NeedsScratch => "NEEDS_SCRATCH",
            Code::DigestMismatch => "DIGEST_MISMATCH",
            Code::Io => "IO",
            Code::Aborted => "ABORTED",
        }
    }
}

/// Where in the way of the bytes it went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Plan,
    Source,
    Decode,
    Format,
    Target,
    Verify,
}

impl Stage {
    pub fn name(self) -> &'static str {
        match self {
            Stage::Plan => "plan",
            Stage::Source => "source",
            Stage::Decode => "decode",
            Stage::Format => "format",
            Stage::Target => "target",
            Stage::Verify => "verify",
        }
    }
}

/// A sentence with the numbers in it and, where there is one, the remedy.
#[derive(Clone, Debug)]
pub struct Error {
    pub code: Code,
    pub stage: Stage,
    pub message: String,
    pub retryable: bool,
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub fn new(code: Code, stage: Stage, message: impl Into<String>) -> Self {
        Self { code, stage, message: message.into(), retryable: false }
    }

    /// An operating-system error on the target. ENOSPC, EDQUOT and EFBIG become NO_SPACE.
    pub fn target(doing: impl fmt::Display, cause: &std::io::Error) -> Self {
        let code = match cause.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => Code::NoSpace,
            Some(libc::EACCES | libc::EPERM | libc::EROFS) => Code::Denied,
            Some(libc::EBUSY | libc::ETXTBSY) => Code::Busy,
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => Code::NotFound,
            _ => Code::Io,
        };
        Self::new(code, Stage::Target, format!("{doing}: {cause}"))
    }

    pub fn aborted() -> Self {
        Self::new(Code::Aborted, Stage::Target, "the transfer was stopped")
    }

    /// A panic that was caught on one of the engine's threads: a defect, reported as an error.
    pub fn panicked(stage: Stage, payload: &(dyn std::any::Any + Send)) -> Self {
        let what = payload
            .downcast_ref::<&str>()
            .map(|s| (*s).to_owned())
            .or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "unknown panic".to_owned());
        Self::new(
            Code::Corrupt,
            stage,
            format!("the engine met a state it did not expect ({what}); please report this image"),
        )
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.code.name(), self.stage.name(), self.message)
    }
}

impl std::error::Error for Error {}
