//! Text out of an image on its way to a terminal.

/// `text` with everything escaped that a terminal would obey or hide behind, so that it stays what it is and stays on
/// its line.
pub(crate) fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || reorders(c) {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// Characters that break lines or change the direction of what follows, and so make a name look like another one.
fn reorders(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{061c}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_escaped() {
        assert_eq!(printable("a\x1b[2Jb\r\n\u{9b}c"), r"a\u{1b}[2Jb\r\n\u{9b}c");
        assert_eq!(printable("gpj\u{202e}kdmv"), r"gpj\u{202e}kdmv");
    }

    #[test]
    fn other_text_stays() {
        assert_eq!(printable("Gr\u{f6}\u{df}e \u{78c1}\u{76d8} \\n"), "Gr\u{f6}\u{df}e \u{78c1}\u{76d8} \\n");
    }
}
