//! Errors cross as JSON in the message: src/dataplane/native.ts takes it apart.

use diskferry_engine::error::{Code, Error, Stage};

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if (c as u32) < 0x20 => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out
}

/// What JavaScript catches: JSON `{code, stage, message, retryable}` as its message.
pub fn thrown(error: &Error) -> napi::Error {
    napi::Error::from_reason(format!(
        r#"{{"code":"{}","stage":"{}","message":"{}","retryable":{}}}"#,
        error.code.name(),
        error.stage.name(),
        escape(&error.message),
        error.retryable
    ))
}

/// BAD_SPEC in the stage plan: an argument of a call makes no sense.
pub fn bad(message: impl Into<String>) -> napi::Error {
    thrown(&Error::new(Code::BadSpec, Stage::Plan, message))
}
