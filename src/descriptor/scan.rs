//! The few ways in which the bytes of a line are cut and read. Everything here is total: no input fails loudly.
//!
//! The encodings seen in descriptors (UTF-8, windows-1252, GBK, Big5, `Shift_JIS`) all keep the quote and the line
//! ends to themselves, so that lines and quotes can be split byte by byte before anything is decoded.

use std::ops::Range;

/// Blanks between fields. A carriage return counts, because it is what a CRLF line ends with.
pub(super) fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r')
}

/// The part of `text[range]` without the blanks around it.
pub(super) fn trimmed(text: &[u8], range: Range<usize>) -> Range<usize> {
    let part = &text[range.clone()];
    let blanks = part.iter().take_while(|&&byte| is_blank(byte)).count();
    let kept = part.iter().rposition(|&byte| !is_blank(byte)).map_or(blanks, |last| last + 1);
    range.start + blanks..range.start + kept
}

/// Takes the next run of non-blanks off `rest`, together with the blanks before it; empty at the end.
pub(super) fn next_word<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    let line = rest.trim_ascii_start();
    let len = line.iter().position(|&byte| is_blank(byte)).unwrap_or(line.len());
    let (word, after) = line.split_at(len);
    *rest = after;
    word
}

/// A number as descriptors write it: decimal digits and nothing else. `None` as well if it exceeds 64 bits.
pub(super) fn decimal(word: &[u8]) -> Option<u64> {
    if !is_digits(word) {
        return None;
    }
    str::from_utf8(word).ok()?.parse().ok()
}

/// Whether `word` is one or more decimal digits.
pub(super) fn is_digits(word: &[u8]) -> bool {
    !word.is_empty() && word.iter().all(u8::is_ascii_digit)
}

/// 1 to 32 hexadecimal digits of any case and nothing else.
pub(super) fn hex(digits: &[u8]) -> Option<u128> {
    if digits.is_empty() || digits.len() > 32 {
        return None;
    }
    digits.iter().try_fold(0, |value, &digit| Some(value << 4 | u128::from(char::from(digit).to_digit(16)?)))
}

/// Bytes of an image for a person to read: escaped, and cut where a line of text has room for no more.
pub(super) fn shown(bytes: &[u8]) -> String {
    const SHOWN: usize = 60;
    let cut = &bytes[..bytes.len().min(SHOWN)];
    let dots = if cut.len() < bytes.len() { "..." } else { "" };
    format!("\"{}{dots}\"", cut.escape_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_of_blanks_is_trimmed_to_nothing() {
        assert_eq!(trimmed(b"a \t\r b", 1..5), 5..5);
        assert_eq!(trimmed(b" a b ", 0..5), 1..4);
        assert_eq!(trimmed(b"", 0..0), 0..0);
    }

    #[test]
    fn words_are_taken_off_one_by_one() {
        let mut rest: &[u8] = b" RW\t\t63  FLAT ";
        let words = [next_word(&mut rest), next_word(&mut rest), next_word(&mut rest), next_word(&mut rest)];
        assert_eq!(words, [&b"RW"[..], b"63", b"FLAT", b""]);
    }

    #[test]
    fn signs_and_prefixes_are_no_part_of_a_number() {
        assert_eq!(decimal(b"0063"), Some(63));
        assert_eq!(decimal(b"18446744073709551615"), Some(u64::MAX));
        for word in [&b""[..], b"+1", b"-1", b"0x10", b"1.", b"18446744073709551616"] {
            assert_eq!(decimal(word), None);
        }
        assert_eq!(hex(b"0172E8a4"), Some(0x0172_e8a4));
        for digits in [&b""[..], b"+1", b"0x1", b"g", b"000000000000000000000000000000001"] {
            assert_eq!(hex(digits), None);
        }
    }

    #[test]
    fn what_is_shown_is_short_and_holds_no_control_characters() {
        assert_eq!(shown(b"a\x1b[2J\xff"), r#""a\x1b[2J\xff""#);
        assert!(shown(&[b'x'; 500]).len() < 80);
    }
}
