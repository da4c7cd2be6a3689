//! Reads of 4 KiB beside the bare `pread` that they come down to.
//!
//! On a machine with other work two measurements one after the other cannot be compared. Here both sides take turns
//! in short rounds over offsets of their own, each going first in half of them; what comes of it are the totals, and
//! the median of the ratios of the rounds.

use std::cell::RefCell;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use vmdk::{BlockDevice, VmdkImage};

use super::random_spots;

/// Reads of one side in a round.
const ROUND: usize = 256;

/// Reads the first `sectors` sectors of an image, whose data is in `file`, at random; says how long it took.
pub(crate) fn beside_pread(image: &VmdkImage, file: &File, sectors: u64, rounds: usize) -> String {
    let spots = random_spots(image, sectors, 2 * ROUND * rounds);
    // One buffer for both: how it lies in memory has a say in what the copy out of the kernel costs.
    let buf = RefCell::new(vec![0; 4096]);
    let bare = |part: &[u64]| {
        let mut buf = buf.borrow_mut();
        let start = Instant::now();
        for &offset in part {
            file.read_exact_at(&mut buf, offset).expect("reads");
        }
        start.elapsed()
    };
    let ours = |part: &[u64]| {
        let mut buf = buf.borrow_mut();
        let start = Instant::now();
        for &sector in part {
            image.read_sectors(sector, &mut buf).expect("reads");
        }
        start.elapsed()
    };
    let (mut total_bare, mut total_ours, mut ratios) = (Duration::ZERO, Duration::ZERO, Vec::new());
    for round in 0..rounds {
        let at = 2 * ROUND * round;
        let (first, second) = (at..at + ROUND, at + ROUND..at + 2 * ROUND);
        let (time_bare, time_ours) = if round % 2 == 0 {
            (bare(&spots.offsets[first]), ours(&spots.sectors[second]))
        } else {
            let time_ours = ours(&spots.sectors[first]);
            (bare(&spots.offsets[second]), time_ours)
        };
        total_bare += time_bare;
        total_ours += time_ours;
        ratios.push(time_ours.as_secs_f64() / time_bare.as_secs_f64());
    }
    ratios.sort_by(f64::total_cmp);
    let reads = u32::try_from(ROUND * rounds).expect("few");
    format!(
        "pread {:?}, vmdk {:?}, ratio of totals {:.3}, median ratio {:.3}",
        total_bare / reads,
        total_ours / reads,
        total_ours.as_secs_f64() / total_bare.as_secs_f64(),
        ratios[ratios.len() / 2]
    )
}
