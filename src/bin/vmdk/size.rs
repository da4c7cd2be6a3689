//! Numbers of bytes, as people write and read them.

const UNITS: [&str; 7] = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/// Reads a number of bytes: decimal or `0x` hexadecimal, times a power of 1024 with the suffix K, M, G or T.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    let (number, shift) = match text.char_indices().next_back() {
        Some((at, 'k' | 'K')) => (&text[..at], 10),
        Some((at, 'm' | 'M')) => (&text[..at], 20),
        Some((at, 'g' | 'G')) => (&text[..at], 30),
        Some((at, 't' | 'T')) => (&text[..at], 40),
        _ => (text, 0),
    };
    let (digits, radix) = match number.strip_prefix("0x").or_else(|| number.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None => (number, 10),
    };
    // The standard library would take a sign.
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return Err("not a number of bytes; examples: 512, 0x200, 64K, 2G".to_owned());
    }
    let value = u64::from_str_radix(digits, radix).ok().and_then(|value| value.checked_mul(1 << shift));
    value.ok_or_else(|| "does not fit into 64 bits".to_owned())
}

/// `bytes` in the largest unit that leaves a whole number before the point, and to the byte: `1.5 KiB (1536 bytes)`.
pub(crate) fn show(bytes: u64) -> String {
    let (mut whole, mut tenths, mut unit) = (bytes, 0, 0);
    while whole >= 1024 {
        tenths = (whole % 1024) * 10 / 1024;
        whole /= 1024;
        unit += 1;
    }
    match (unit, tenths) {
        (0, _) => format!("{bytes} bytes"),
        (_, 0) => format!("{whole} {} ({bytes} bytes)", UNITS[unit]),
        _ => format!("{whole}.{tenths} {} ({bytes} bytes)", UNITS[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_are_powers_of_1024() {
        let cases = [("0", 0), ("512", 512), ("1k", 1024), ("3M", 3 << 20), ("2G", 2 << 30), ("7t", 7 << 40)];
        for (text, bytes) in cases {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn hexadecimal_is_bytes_as_well() {
        assert_eq!(parse("0x200"), Ok(512));
        assert_eq!(parse("0X1fK"), Ok(31 << 10));
    }

    #[test]
    fn what_is_no_number_of_bytes_is_refused() {
        for text in ["", "K", "0x", "-1", "+1", "1.5G", "1KB", " 1", "0xg", "\u{e9}", "\u{663}"] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert_eq!(parse("0xffffffffffffffff"), Ok(u64::MAX));
        for text in ["18446744073709551616", "0x10000000000000000", "16777216T"] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn sizes_are_shown_in_the_largest_unit_and_to_the_byte() {
        assert_eq!(show(0), "0 bytes");
        assert_eq!(show(1023), "1023 bytes");
        assert_eq!(show(1024), "1 KiB (1024 bytes)");
        assert_eq!(show(1536), "1.5 KiB (1536 bytes)");
        assert_eq!(show(40 << 30), "40 GiB (42949672960 bytes)");
        assert_eq!(show(u64::MAX), "15.9 EiB (18446744073709551615 bytes)");
    }
}
