//! Only what links above a base have: what an incremental backup has to read.

use std::fs;
use std::path::PathBuf;

use super::{is, map, number, real, run, text};
use crate::support::disk::{Disk, Kind};
use crate::support::model::is_zero;
use crate::support::{byte_range, index};

/// A base, and three links above it, of which the second is too short.
fn chain() -> Disk {
    Kind::DeepChain.disk(3)
}

/// The parents of the image, the nearest first, as somebody would name them.
fn parents(disk: &Disk) -> Vec<PathBuf> {
    disk.links.iter().rev().skip(1).map(|link| disk.dir().join(&link.name)).collect()
}

/// What the links above `base` say of a sector: who has it, or that it is masked because a link is too short.
enum Said {
    Has(usize),
    Masked(usize),
    Unchanged,
    /// Nobody has it, and the base has no such sector.
    New,
}

fn said(disk: &Disk, base: usize, sector: u64) -> Said {
    let youngest_first: Vec<_> = disk.links.iter().rev().collect();
    let is_in_base = sector < youngest_first[base].layer.capacity();
    for (depth, link) in youngest_first[..base].iter().enumerate() {
        if sector >= link.layer.capacity() {
            return if is_in_base { Said::Masked(depth) } else { Said::New };
        }
        if link.layer.sector(sector).is_some() {
            return Said::Has(depth);
        }
    }
    if is_in_base { Said::Unchanged } else { Said::New }
}

#[test]
fn only_what_links_above_the_base_say_is_present() {
    let kinds = [Kind::Child, Kind::LargerChild, Kind::SmallerChild, Kind::DeepChain];
    for (kind, seed) in kinds.into_iter().flat_map(|kind| (0..6).map(move |seed| (kind, seed))) {
        let disk = kind.disk(seed);
        for (base, parent) in (1..).zip(parents(&disk)) {
            let mut at = 0;
            for entry in map(&["--above", parent.to_str().unwrap()], &disk.path) {
                let (start, length) = (number(&entry, "start"), number(&entry, "length"));
                assert_eq!(start, at, "{entry}");
                at += length;
                let depth = index(number(&entry, "depth"));
                let what = (is(&entry, "present"), is(&entry, "zero"), is(&entry, "data"));
                for sector in start / 512..at / 512 {
                    let is_zero = is_zero(&disk.content[byte_range(sector, 1)]);
                    let fits = match said(&disk, base, sector) {
                        Said::Has(there) if what.1 => what.0 && depth == there && is_zero,
                        Said::Has(there) => what.0 && what.2 && depth == there,
                        Said::Masked(there) => what == (true, true, false) && depth == there,
                        Said::Unchanged => what == (false, false, false),
                        Said::New => what == (false, true, false) && is_zero,
                    };
                    assert!(fits, "{kind:?} above {base}, sector {sector}: {entry}");
                }
            }
            assert_eq!(at, disk.content.len() as u64);
        }
    }
}

#[test]
fn the_text_shows_what_an_incremental_backup_reads() {
    let disk = chain();
    for parent in parents(&disk) {
        let parent = parent.to_str().unwrap();
        let changed = map(&["--above", parent], &disk.path);
        let changed = changed.iter().filter(|entry| is(entry, "data") && !is(entry, "zero"));
        let rows = text(&["--above", parent], &disk.path);
        assert_eq!(rows.lines().count(), 1 + changed.count());
    }
}

#[test]
fn a_base_is_known_by_any_name_it_has() {
    let disk = chain();
    let base = &parents(&disk)[2];
    let expected = map(&["--above", base.to_str().unwrap()], &disk.path);
    let (hard, soft) = (disk.dir().join("hard"), disk.dir().join("soft"));
    fs::hard_link(base, &hard).unwrap();
    std::os::unix::fs::symlink(base, &soft).unwrap();
    for name in [hard, soft] {
        assert_eq!(map(&["--above", name.to_str().unwrap()], &disk.path), expected);
    }
}

#[test]
fn what_is_no_parent_is_refused_with_a_list_of_those_there_are() {
    let disk = chain();
    let other = chain();
    for (base, problem) in [
        (other.links[0].name.as_str(), "is not in the chain of the image"),
        (disk.links[3].name.as_str(), "is the image itself"),
        ("none", "cannot look at it"),
    ] {
        let dir = if problem.contains("not in") { other.dir() } else { disk.dir() };
        let base = dir.join(base);
        let (code, stdout, stderr) = run(&["--json", "--above", base.to_str().unwrap()], &disk.path);
        assert_eq!((code, stdout.as_str(), stderr.lines().count()), (2, "", 1), "{stderr}");
        assert!(stderr.contains(problem), "{stderr}");
        let listed = parents(&disk).iter().filter(|parent| stderr.contains(real(parent).to_str().unwrap())).count();
        assert_eq!(listed, if problem.contains("look") { 0 } else { 3 }, "{stderr}");
    }
    let base = disk.dir().join(&disk.links[0].name);
    let (code, _, stderr) = run(&["--above", base.to_str().unwrap()], &base);
    assert!(code == 2 && stderr.ends_with("its parents are: none\n"), "{stderr}");
}
