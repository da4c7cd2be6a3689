//! `vmdk compare`: whether two disks hold the same.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use vmdk::{BlockDevice, Comparison, RawImage, SECTOR_SIZE, VmdkImage};

use crate::args::{CompareArgs, TrustArgs};
use crate::failure::{Failure, Result};
use crate::progress::Progress;

/// There is a difference.
const EXIT_DIFFERENT: u8 = 1;

pub(crate) fn run(args: &CompareArgs) -> Result<ExitCode> {
    let a = open(&args.a, args.raw_a, &args.open)?;
    let b = open(&args.b, args.raw_b, &args.open)?;
    let images: Vec<_> = [&a, &b].into_iter().filter_map(Disk::image).collect();
    args.open.check_maps(&images)?;
    let (a, b) = (a.device(), b.device());
    let larger = a.capacity_sectors().max(b.capacity_sectors());
    let progress = Progress::new(larger.saturating_mul(SECTOR_SIZE as u64));
    let found = vmdk::compare(a, b, &mut |now| progress.step(now))?;
    drop(progress);
    say(&found, &mut io::stdout().lock()).map_err(Failure::Output)?;
    let is_same = found.is_same_content() && (found.is_same_size() || !args.strict);
    Ok(if is_same { ExitCode::SUCCESS } else { ExitCode::from(EXIT_DIFFERENT) })
}

/// One of the two.
enum Disk {
    Raw(RawImage),
    Image(VmdkImage),
}

impl Disk {
    fn device(&self) -> &dyn BlockDevice {
        match self {
            Self::Raw(raw) => raw,
            Self::Image(image) => image,
        }
    }

    fn image(&self) -> Option<&VmdkImage> {
        match self {
            Self::Raw(_) => None,
            Self::Image(image) => Some(image),
        }
    }
}

/// Opens what is a VMDK by its first bytes as such, unless it is to be `raw`, and everything else as a raw image.
fn open(path: &Path, raw: bool, trust: &TrustArgs) -> Result<Disk> {
    let file = RawImage::open(path)?;
    if raw || !file.looks_like_vmdk()? {
        return Ok(Disk::Raw(file));
    }
    Ok(Disk::Image(trust.options_of_one().open(path)?))
}

fn say(found: &Comparison, output: &mut dyn Write) -> io::Result<()> {
    match found.first_difference {
        Some(offset) => writeln!(output, "content differs at offset {offset} ({offset:#x})")?,
        None => writeln!(output, "content is the same")?,
    }
    if !found.is_same_size() {
        let (a, b) = found.sizes;
        writeln!(output, "sizes differ: {a} and {b} bytes")?;
    }
    output.flush()
}
