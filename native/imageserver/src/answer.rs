//! What is answered to a request: pure but for the file's size and validator.

use std::ffi::OsString;
use std::fmt::Write;
use std::ops::Range;

use crate::disk::Disk;

#[derive(Default)]
pub struct Asked {
    pub method: String,
    pub path: String,
    pub range: Option<String>,
    pub if_match: Option<String>,
    pub if_range: Option<String>,
}

#[derive(Debug, PartialEq)]
pub enum Body {
    None,
    /// Bytes [start, end).
    Disk(Range<u64>),
    Environment,
}

#[derive(Debug, PartialEq)]
pub struct Answer {
    status: &'static str,
    about: Body,
    /// What is sent: nothing of a HEAD.
    pub body: Body,
}

/// Where the environment is; everything else is the disk, whatever it is called.
const ENVIRONMENT: &str = "/info";

/// RFC 9110: sections 13 (conditions) and 14 (ranges). A range that is not understood, or several, are as none.
pub fn answer(asked: &Asked, disk: &Disk) -> Answer {
    let (status, about) = match asked.method.as_str() {
        "GET" | "HEAD" if asked.path == ENVIRONMENT => ("200 OK", Body::Environment),
        "GET" | "HEAD" => of_disk(asked, disk),
        _ => ("405 Method Not Allowed", Body::None),
    };
    let body = match &about {
        _ if asked.method == "HEAD" => Body::None,
        Body::Disk(range) => Body::Disk(range.clone()),
        Body::Environment => Body::Environment,
        Body::None => Body::None,
    };
    Answer { status, about, body }
}

fn of_disk(asked: &Asked, disk: &Disk) -> (&'static str, Body) {
    if asked.if_match.as_ref().is_some_and(|tag| tag != "*" && *tag != disk.tag) {
        return ("412 Precondition Failed", Body::None);
    }
    let same = asked.if_range.as_ref().is_none_or(|tag| *tag == disk.tag);
    match asked.range.as_deref().filter(|_| same).and_then(|text| range(text, disk.size)) {
        None => ("200 OK", Body::Disk(0..disk.size)),
        Some(range) if range.is_empty() => ("416 Range Not Satisfiable", Body::None),
        Some(range) => ("206 Partial Content", Body::Disk(range)),
    }
}

/// `bytes=0-99`, `bytes=100-`, `bytes=-100` of so many bytes; an empty range where there is none of it, None where it is not read.
fn range(text: &str, size: u64) -> Option<Range<u64>> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let number = |digits: &str| digits.bytes().all(|one| one.is_ascii_digit()).then(|| digits.parse::<u64>().ok())?;
    if first.is_empty() {
        return Some(size.saturating_sub(number(last)?)..size);
    }
    let first = number(first)?;
    let last = if last.is_empty() { u64::MAX } else { number(last)? };
    if last < first {
        return None;
    }
    Some(first.min(size)..last.saturating_add(1).min(size))
}

impl Answer {
    pub fn head(&self, disk: &Disk, environment: &str) -> String {
        let mut head = format!("HTTP/1.1 {}\r\nAccept-Ranges: bytes\r\nETag: {}\r\n", self.status, disk.tag);
        let (kind, length) = match &self.about {
            Body::None => ("text/plain", 0),
            Body::Environment => ("application/json", environment.len() as u64),
            Body::Disk(range) => ("application/octet-stream", range.end - range.start),
        };
        // Writing to a String does not fail.
        let _ = write!(head, "Content-Type: {kind}\r\nContent-Length: {length}\r\n");
        let _ = match &self.about {
            Body::Disk(range) if self.status.starts_with("206") => {
                write!(head, "Content-Range: bytes {}-{}/{}\r\n", range.start, range.end - 1, disk.size)
            }
            Body::None if self.status.starts_with("416") => write!(head, "Content-Range: bytes */{}\r\n", disk.size),
            _ => Ok(()),
        };
        head + "\r\n"
    }
}

/// The environment that the image gives, as JSON: what it says of the machine that its disk is for stands there.
pub fn environment(variables: impl Iterator<Item = (OsString, OsString)>) -> String {
    let list: Vec<_> = variables
        .map(|(name, value)| quoted(&format!("{}={}", name.to_string_lossy(), value.to_string_lossy())))
        .collect();
    format!("{{\"env\":[{}]}}", list.join(","))
}

/// RFC 8259, section 7.
fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for letter in text.chars() {
        match letter {
            '"' | '\\' => quoted.extend(['\\', letter]),
            '\0'..='\u{1f}' => {
                let _ = write!(quoted, "\\u{:04x}", u32::from(letter));
            }
            _ => quoted.push(letter),
        }
    }
    quoted + "\""
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 1000;

    #[test]
    fn ranges() {
        for (text, expected) in [
            ("bytes=0-99", Some(0..100)),
            ("bytes=100-", Some(100..1000)),
            ("bytes=990-5000", Some(990..1000)),
            ("bytes=-10", Some(990..1000)),
            ("bytes=-5000", Some(0..1000)),
            ("bytes=0-18446744073709551615", Some(0..1000)),
            // Not there.
            ("bytes=1000-", Some(1000..1000)),
            ("bytes=5000-6000", Some(1000..1000)),
            ("bytes=-0", Some(1000..1000)),
            // Not understood.
            ("bytes=9-3", None),
            ("bytes=0-1,5-6", None),
            ("bytes=+1-2", None),
            ("bytes=99999999999999999999-", None),
            ("bytes=-", None),
            ("lines=0-1", None),
            ("", None),
        ] {
            assert_eq!(range(text, SIZE), expected, "{text}");
        }
    }

    #[test]
    fn text_is_json() {
        let variables = [("A", "x"), ("B", "a\"b\\c\nd\u{e9}")];
        let text = environment(variables.into_iter().map(|(name, value)| (name.into(), value.into())));
        assert_eq!(text, "{\"env\":[\"A=x\",\"B=a\\\"b\\\\c\\u000ad\u{e9}\"]}");
    }
}
