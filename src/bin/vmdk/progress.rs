//! A progress bar for people, and nothing for everybody else.

use std::io::IsTerminal;
use std::ops::ControlFlow;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use vmdk::CopyProgress;

use crate::interrupt;

const TEMPLATE: &str = "{wide_bar} {percent:>3}%  {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left";

/// A progress bar on stderr if that is a terminal. It disappears with this value.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
}

impl Progress {
    pub(crate) fn new(total: u64) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self { bar: None };
        }
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
            bar.set_style(style.progress_chars("=> "));
        }
        Self { bar: Some(bar) }
    }

    /// Shows how far the work is, and says whether it may go on.
    pub(crate) fn step(&self, now: CopyProgress) -> ControlFlow<()> {
        if let Some(bar) = &self.bar {
            bar.set_length(now.total);
            bar.set_position(now.done);
        }
        interrupt::check()
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_is_understood() {
        ProgressStyle::with_template(TEMPLATE).unwrap();
    }
}
