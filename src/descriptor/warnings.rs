//! What was odd about a text, in bounded memory.

use std::fmt::Display;

/// The most warnings that are kept word by word.
const MAX_WARNINGS: usize = 100;

/// The warnings so far; beyond `MAX_WARNINGS` they are only counted.
#[derive(Default)]
pub(super) struct Warnings {
    list: Vec<String>,
    left_out: usize,
}

impl Warnings {
    pub(super) fn at(&mut self, line: usize, problem: impl Display) {
        if self.list.len() < MAX_WARNINGS {
            self.list.push(format!("line {line}: {problem}"));
        } else {
            self.left_out += 1;
        }
    }

    /// About a key that is not there, and so on no line. There are few of these, and they are never left out.
    pub(super) fn missing(&mut self, problem: &str) {
        self.list.push(problem.to_owned());
    }

    pub(super) fn finish(mut self) -> Vec<String> {
        if self.left_out > 0 {
            self.list.push(format!("{} more warnings are left out", self.left_out));
        }
        self.list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_beyond_the_limit_are_counted() {
        let mut warnings = Warnings::default();
        for line in 1..=MAX_WARNINGS + 7 {
            warnings.at(line, "odd");
        }
        warnings.missing("something is missing");
        let list = warnings.finish();
        assert_eq!(list.len(), MAX_WARNINGS + 2);
        assert_eq!(list[MAX_WARNINGS - 1], "line 100: odd");
        assert_eq!(list[MAX_WARNINGS..], ["something is missing", "7 more warnings are left out"]);
    }
}
