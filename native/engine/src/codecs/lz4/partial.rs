//! The beginning of a compressed block whose end is missing (doc/lz4_Block_format.md of the LZ4 project): blocks of 4 MiB
//! are larger than the head of a source that a plan looks at.

/// Shortest match ("Matches").
const LEAST_MATCH: usize = 4;

/// What `data` decodes to as far as it goes, at most `most` bytes. `window`: what was decoded before.
pub fn decode(data: &[u8], window: &[u8], most: usize) -> Vec<u8> {
    let mut out = Vec::new();
    // Where there is no more input, or what there is makes no sense, it ends: the caller has an error to tell anyway.
    let _ = sequences(data, window, most, &mut out);
    out
}

fn sequences(mut data: &[u8], window: &[u8], most: usize, out: &mut Vec<u8>) -> Option<()> {
    loop {
        let token = *data.split_off_first()?;
        let literals = length(token >> 4, &mut data)?.min(data.len()).min(most - out.len());
        out.extend_from_slice(data.split_off(..literals)?);
        let (low, high) = (data.split_off_first()?, data.split_off_first()?);
        let offset = usize::from(u16::from_le_bytes([*low, *high]));
        let count = length(token & 0xf, &mut data)?.checked_add(LEAST_MATCH)?.min(most - out.len());
        if offset == 0 || offset > out.len() + window.len() {
            return None;
        }
        for _ in 0..count {
            let byte = match out.len().checked_sub(offset) {
                Some(at) => out[at],
                None => window[window.len() + out.len() - offset],
            };
            out.push(byte);
        }
        if out.len() == most {
            return None;
        }
    }
}

/// Four bits of a token, and the bytes that follow when they are all set.
fn length(bits: u8, data: &mut &[u8]) -> Option<usize> {
    let mut length = usize::from(bits);
    while length >= 15 {
        let more = *data.split_off_first()?;
        length = length.checked_add(usize::from(more))?;
        if more != 255 {
            break;
        }
    }
    Some(length)
}

#[cfg(test)]
mod tests {
    use super::decode;

    #[test]
    fn every_beginning_of_a_block_decodes_to_a_beginning() {
        let mut text: Vec<u8> = (0..6000u32).flat_map(|n| (n * n % 977).to_string().into_bytes()).collect();
        text.extend([7; 3000]);
        let (window, content) = text.split_at(500);
        let (dictionary, at) = (lz4_flex::block::compress_with_dict(content, window), content.len());
        assert_eq!(decode(&dictionary, window, at), content);
        let mut last = 0;
        for cut in 0..dictionary.len() {
            let decoded = decode(&dictionary[..cut], window, at);
            assert!(content.starts_with(&decoded) && decoded.len() >= last, "cut at {cut}");
            last = decoded.len();
            assert!(decode(&dictionary[..cut], window, 100).len() <= 100);
        }
    }
}
