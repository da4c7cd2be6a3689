//! Images with one thing wrong, and what a check has to say of each.

use vmdk::FindingKind::{self, *};
use vmdk::Severity::{self, Corruption, Inconsistency, Note};

use super::subject::{Files, files_of};
use super::support::SECTOR;
use super::support::cowd::{self, CowdImage};
use super::support::disk::Image;
use super::support::rng::Rng;
use super::support::sparse::{FLAG_ZERO_GRAINS, Layout, SparseImage, field};

/// An image with something wrong.
pub(crate) struct Row {
    pub(crate) what: &'static str,
    pub(crate) files: Files,
    /// What a check says: kind, severity, how many, and whether a repair that gives nothing back does something
    /// about it.
    pub(crate) findings: Vec<(FindingKind, Severity, u64, bool)>,
    /// What a check says after the repair, but for notes.
    pub(crate) left: Vec<FindingKind>,
}

/// Grains of the extents here.
const GRAIN: u64 = 8;

/// Of sixteen grains 0 to 5 and 9 have data, of a disk with one table of 128 entries.
pub(crate) fn extent() -> SparseImage {
    let rng = &mut Rng::new(5);
    let extent = SparseImage::new(16 * GRAIN).grain_sectors(GRAIN).entries_per_table(128);
    [0, 3, 1, 2, 5, 4, 9].into_iter().fold(extent, |extent, grain| extent.data(grain, rng.bytes(8 * SECTOR)))
}

/// The same over two tables: grains 130 and 131 have data as well.
fn two_tables() -> SparseImage {
    let rng = &mut Rng::new(6);
    let extent = SparseImage::new(140 * GRAIN).grain_sectors(GRAIN).entries_per_table(128);
    [0, 3, 130, 131].into_iter().fold(extent, |extent, grain| extent.data(grain, rng.bytes(8 * SECTOR)))
}

fn image(extent: SparseImage) -> Files {
    files_of(&[Image::monolithic_sparse("disk.vmdk", extent)])
}

/// The extent as an image, changed by `damage`.
fn damaged(extent: SparseImage, damage: impl FnOnce(&mut Vec<u8>, &Layout)) -> Files {
    let mut files = image(extent.clone());
    let layout = with_descriptor(extent).layout();
    damage(&mut files[0].1, &layout);
    files
}

/// An embedded descriptor moves what comes behind it.
fn with_descriptor(extent: SparseImage) -> SparseImage {
    extent.descriptor("x")
}

fn put(bytes: &mut [u8], at: u64, value: u32) {
    let at = usize::try_from(at).unwrap();
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn get(bytes: &[u8], at: u64) -> u32 {
    let at = usize::try_from(at).unwrap();
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// Changes an entry in both copies.
fn put_both(bytes: &mut [u8], layout: &Layout, grain: u64, value: u32) {
    put(bytes, layout.entry(grain), value);
    put(bytes, layout.redundant_entry(grain), value);
}

fn unclean(bytes: &mut [u8]) {
    bytes[usize::try_from(field::UNCLEAN).unwrap()] = 1;
}

const PAST_END: u32 = 0x10_0000;

/// All rows.
pub(crate) fn rows() -> Vec<Row> {
    let mut rows = entries();
    rows.extend(grains());
    rows.extend(structures());
    rows.extend(descriptors());
    rows.extend(others());
    rows
}

fn row(what: &'static str, files: Files, findings: &[(FindingKind, Severity, u64, bool)], left: &[FindingKind]) -> Row {
    let mut findings = findings.to_vec();
    findings.sort_unstable();
    Row { what, files, findings, left: left.to_vec() }
}

/// An extent that was not closed, with a redundant entry past the end of the file.
pub(crate) fn with_copy_past_end() -> Files {
    damaged(extent(), |bytes, layout| {
        unclean(bytes);
        put(bytes, layout.redundant_entry(3), PAST_END);
    })
}

fn entries() -> Vec<Row> {
    let gap = u32::try_from(with_descriptor(extent()).layout().end).unwrap();
    vec![
        row(
            "a copy that differs",
            damaged(extent(), |bytes, layout| put(bytes, layout.redundant_entry(3), 0)),
            &[(CopyDiffers, Inconsistency, 1, true)],
            &[],
        ),
        row(
            "two copies that differ, one beside the other, and one apart",
            damaged(extent(), |bytes, layout| {
                for grain in [2, 3, 9] {
                    put(bytes, layout.redundant_entry(grain), PAST_END);
                }
            }),
            &[(CopyDiffers, Inconsistency, 2, true), (CopyDiffers, Inconsistency, 1, true)],
            &[],
        ),
        row(
            "a copy that differs in an extent that was not closed",
            damaged(extent(), |bytes, layout| {
                unclean(bytes);
                put(bytes, layout.redundant_entry(3), 0);
            }),
            &[(CopyDiffers, Note, 1, true), (Unclean, Note, 1, true)],
            &[],
        ),
        row(
            "an entry of 0 whose copy has a grain: it was freed",
            damaged(extent(), |bytes, layout| put(bytes, layout.entry(9), 0)),
            &[(CopyDiffers, Inconsistency, 1, true), (Leak, Note, 1, false)],
            &[],
        ),
        row(
            "an entry past the end whose copy is right",
            damaged(extent(), |bytes, layout| put(bytes, layout.entry(3), PAST_END)),
            // Its grain is named by the copy alone.
            &[(GrainPastEnd, Inconsistency, 1, true), (Leak, Note, 1, false)],
            &[],
        ),
        row(
            "an entry past the end in both copies",
            damaged(extent(), |bytes, layout| put_both(bytes, layout, 3, PAST_END)),
            &[(GrainPastEnd, Corruption, 1, true), (Leak, Note, 1, false)],
            &[],
        ),
        row(
            "an entry past the end in an extent that was not closed",
            damaged(extent(), |bytes, layout| {
                unclean(bytes);
                put_both(bytes, layout, 12, gap + 800);
            }),
            &[(GrainPastEnd, Inconsistency, 1, true), (Unclean, Note, 1, true)],
            &[],
        ),
    ]
}

fn grains() -> Vec<Row> {
    vec![
        row(
            "an entry in the metadata whose copy is right",
            damaged(extent(), |bytes, layout| put(bytes, layout.entry(3), 2)),
            &[(GrainInMetadata, Inconsistency, 1, true), (Leak, Note, 1, false)],
            &[],
        ),
        row(
            "an entry in the metadata in both copies",
            damaged(extent(), |bytes, layout| put_both(bytes, layout, 3, 2)),
            &[(GrainInMetadata, Corruption, 1, false), (Leak, Note, 1, false)],
            &[GrainInMetadata],
        ),
        row(
            "two entries for one grain",
            damaged(extent(), |bytes, layout| {
                let first = get(bytes, layout.entry(1));
                put_both(bytes, layout, 12, first);
            }),
            &[(GrainShared, Corruption, 1, true)],
            &[],
        ),
        row(
            "two grains that overlap",
            damaged(extent(), |bytes, layout| {
                let first = get(bytes, layout.entry(1));
                put_both(bytes, layout, 12, first + 3);
            }),
            &[(GrainShared, Corruption, 1, true)],
            &[],
        ),
        row(
            "two entries for one grain, and a copy with another grain",
            damaged(extent(), |bytes, layout| {
                let first = get(bytes, layout.entry(1));
                put(bytes, layout.entry(3), first);
            }),
            &[(GrainShared, Corruption, 1, false), (Leak, Note, 1, false)],
            &[GrainShared],
        ),
        row(
            "two entries for one grain, and another one whose copy has another grain",
            damaged(extent(), |bytes, layout| {
                let [first, other, fifth] = [1, 9, 5].map(|grain| get(bytes, layout.entry(grain)));
                put_both(bytes, layout, 12, first);
                put(bytes, layout.entry(9), fifth);
                put(bytes, layout.redundant_entry(5), other);
            }),
            &[
                (GrainShared, Corruption, 1, false),
                (GrainShared, Corruption, 1, false),
                (CopyDiffers, Inconsistency, 1, false),
                (Leak, Note, 1, false),
            ],
            &[CopyDiffers, GrainShared, GrainShared],
        ),
        row(
            "a zero grain that is not announced",
            damaged(extent(), |bytes, layout| put_both(bytes, layout, 12, 1)),
            &[(ZeroGrain, Inconsistency, 1, true)],
            &[],
        ),
        row(
            "entries past the capacity",
            damaged(extent(), |bytes, layout| put_both(bytes, layout, 100, PAST_END)),
            &[(PastCapacity, Inconsistency, 1, true), (PastCapacity, Inconsistency, 1, true)],
            &[],
        ),
        row(
            "entries past the capacity that may be grains",
            damaged(extent(), |bytes, layout| {
                let grain = get(bytes, layout.entry(9));
                put_both(bytes, layout, 9, 0);
                put_both(bytes, layout, 100, grain);
            }),
            &[(PastCapacity, Inconsistency, 1, false), (PastCapacity, Inconsistency, 1, false), (Leak, Note, 1, false)],
            &[PastCapacity, PastCapacity],
        ),
        row(
            "grains that nothing names",
            damaged(extent(), |bytes, layout| {
                put_both(bytes, layout, 3, 0);
                bytes.extend([7; 16 * SECTOR]);
            }),
            &[(Leak, Note, 1, false), (Leak, Note, 2, false)],
            &[],
        ),
        row(
            "grains out of line",
            image(extent().grain_shift(1)),
            &[(GrainOutOfLine, Note, 6, false), (GrainOutOfLine, Note, 1, false)],
            &[],
        ),
    ]
}

fn structures() -> Vec<Row> {
    let directory = |layout: &Layout, table: u64| layout.gd * SECTOR as u64 + table * 4;
    let redundant = |layout: &Layout, table: u64| layout.rgd * SECTOR as u64 + table * 4;
    vec![
        row(
            "a table past the end whose copy is right",
            damaged(two_tables(), |bytes, layout| put(bytes, directory(layout, 1), PAST_END)),
            &[(TablePlace, Inconsistency, 1, true)],
            &[],
        ),
        row(
            "a table past the end, and its copy as well",
            damaged(two_tables(), |bytes, layout| {
                put(bytes, directory(layout, 1), PAST_END);
                put(bytes, redundant(layout, 1), PAST_END + 8);
            }),
            &[(TablePlace, Corruption, 1, false), (TablePlace, Inconsistency, 1, false), (Leak, Note, 2, false)],
            &[TablePlace, TablePlace],
        ),
        row(
            "a copy past the end",
            damaged(two_tables(), |bytes, layout| put(bytes, redundant(layout, 1), PAST_END)),
            &[(TablePlace, Inconsistency, 1, true)],
            &[],
        ),
        row(
            "a table in the place of another one",
            damaged(two_tables(), |bytes, layout| {
                let first = get(bytes, directory(layout, 0));
                put(bytes, directory(layout, 1), first);
            }),
            &[(TablePlace, Corruption, 1, false)],
            &[TablePlace],
        ),
        row(
            "both directories name one table",
            damaged(two_tables(), |bytes, layout| {
                let first = get(bytes, directory(layout, 0));
                put(bytes, redundant(layout, 0), first);
            }),
            &[(SameTable, Inconsistency, 1, true)],
            &[],
        ),
        row(
            "a table that only the redundant directory has",
            damaged(two_tables(), |bytes, layout| put(bytes, directory(layout, 1), 0)),
            &[(LoneCopy, Corruption, 1, false), (Leak, Note, 2, false)],
            &[LoneCopy],
        ),
        row(
            "a table without a copy",
            damaged(two_tables(), |bytes, layout| put(bytes, redundant(layout, 1), 0)),
            &[(NoCopy, Inconsistency, 1, true)],
            &[],
        ),
        row(
            "a grain in a table",
            damaged(two_tables().patch_u64(field::OVERHEAD, 21), |bytes, layout| {
                let table = get(bytes, directory(layout, 1));
                put_both(bytes, layout, 7, table);
            }),
            &[(GrainShared, Corruption, 1, false)],
            &[GrainShared],
        ),
        row(
            "a grain directory in the header's place",
            damaged(two_tables(), |bytes, _| put(bytes, field::RGD_OFFSET, 0)),
            &[(Directory, Inconsistency, 1, true)],
            &[],
        ),
        row(
            "a directory past the end whose copy is right",
            damaged(two_tables(), |bytes, _| put(bytes, field::GD_OFFSET, PAST_END)),
            &[(Directory, Inconsistency, 1, true)],
            &[],
        ),
        row(
            "a directory in the other one's place",
            damaged(two_tables(), |bytes, layout| {
                put(bytes, field::GD_OFFSET, u32::try_from(layout.rgd).unwrap());
            }),
            &[(Regions, Corruption, 1, false), (SameTable, Inconsistency, 2, false)],
            &[Regions, SameTable],
        ),
    ]
}

fn descriptors() -> Vec<Row> {
    vec![
        row(
            "no descriptor, and room for one",
            damaged(extent(), |bytes, _| bytes[SECTOR..21 * SECTOR].fill(0)),
            &[(NoDescriptor, Inconsistency, 1, true)],
            &[],
        ),
        row(
            "a descriptor in the back half of its room",
            damaged(extent(), |bytes, _| {
                let [front, back] = [SECTOR, 11 * SECTOR];
                bytes.copy_within(front..back, back);
                put(bytes, field::DESCRIPTOR_OFFSET, 11);
                put(bytes, field::DESCRIPTOR_SIZE, 10);
            }),
            &[(DescriptorPlace, Inconsistency, 1, true)],
            &[],
        ),
        row(
            "a descriptor that begins behind something else",
            damaged(extent(), |bytes, _| {
                let [front, back] = [SECTOR, 11 * SECTOR];
                bytes.copy_within(front..back, back);
                bytes[front..back].fill(7);
                put(bytes, field::DESCRIPTOR_OFFSET, 11);
                put(bytes, field::DESCRIPTOR_SIZE, 10);
            }),
            &[],
            &[],
        ),
    ]
}

fn others() -> Vec<Row> {
    let delta = || {
        let base = Image::vmfs("base.vmdk", vec![7; 64 * SECTOR]);
        let rng = &mut Rng::new(9);
        let extent = [0, 3, 17].into_iter().fold(CowdImage::esx(64), |e, grain| e.data(grain, rng.bytes(SECTOR)));
        files_of(&[base.clone(), Image::esx_delta(&base, "delta.vmdk", &extent)])
    };
    let cowd = |damage: &dyn Fn(&mut Vec<u8>)| {
        let mut files = delta();
        let (_, bytes) = files.iter_mut().find(|(_, bytes)| bytes.starts_with(b"COWD")).unwrap();
        damage(bytes);
        files
    };
    vec![
        row(
            "an extent that was not closed",
            damaged(extent(), |bytes, _| unclean(bytes)),
            &[(Unclean, Note, 1, true)],
            &[],
        ),
        row(
            "zero grains that are announced",
            damaged(extent().with_zero_grains().zero(12), |bytes, _| {
                assert_ne!(get(bytes, field::FLAGS) & FLAG_ZERO_GRAINS, 0);
            }),
            &[],
            &[],
        ),
        row(
            "a free sector in front of what is used",
            cowd(&|bytes| put(bytes, cowd::field::FREE_SECTOR, 38)),
            &[(FreeSector, Inconsistency, 1, true)],
            &[],
        ),
        row(
            "a delta whose grain lies past the end",
            cowd(&|bytes| {
                let at = bytes.len() as u64 - 3 * SECTOR as u64 - 32 * SECTOR as u64;
                put(bytes, at + 20 * 4, 0x4000);
            }),
            &[(GrainPastEnd, Corruption, 1, true)],
            &[],
        ),
        row(
            "a flat file that is too short",
            {
                let mut files = files_of(&[Image::monolithic_flat("disk.vmdk", vec![7; 9 * SECTOR])]);
                files[0].1.truncate(8 * SECTOR);
                files
            },
            &[(Size, Corruption, 1, false)],
            &[Size],
        ),
        row(
            "a flat file that is too long",
            {
                let mut files = files_of(&[Image::monolithic_flat("disk.vmdk", vec![7; 9 * SECTOR])]);
                files[0].1.extend([0; SECTOR]);
                files
            },
            &[(Size, Note, 1, false)],
            &[],
        ),
        row(
            "a file that is missing",
            {
                let mut files = files_of(&[Image::monolithic_flat("disk.vmdk", vec![7; 9 * SECTOR])]);
                files.remove(0);
                files
            },
            &[(Unreadable, Corruption, 1, false)],
            &[Unreadable],
        ),
        row(
            "a header that was transferred as text",
            damaged(extent(), |bytes, _| bytes[usize::try_from(field::NEWLINES).unwrap()] = b'\r'),
            &[(Unreadable, Corruption, 1, false)],
            &[Unreadable],
        ),
    ]
}

/// An image with nothing wrong, with one table or with two.
pub(crate) fn plain(second: bool) -> Files {
    image(if second { two_tables() } else { extent() })
}

/// The same disk, whose grain directory has its two tables in the other order, and its redundant one has not.
pub(crate) fn with_swapped_tables() -> Files {
    damaged(two_tables(), |bytes, layout| {
        let at = layout.gd * SECTOR as u64;
        let [first, second] = [at, at + 4].map(|entry| get(bytes, entry));
        put(bytes, at, second);
        put(bytes, at + 4, first);
    })
}

/// The byte offset of an entry of a directory or table, by any number: the first ones of each.
pub(crate) fn interesting(bytes: &[u8], number: usize) -> usize {
    let sector = |at: u64| usize::try_from(get(bytes, at)).unwrap() * SECTOR;
    let directories = [sector(field::GD_OFFSET), sector(field::RGD_OFFSET)];
    // The header may have been changed as well.
    let directory = directories[number % 2].min(bytes.len() - SECTOR);
    match number / 2 {
        0 | 1 => directory + number / 2 * 4,
        entry => {
            // A directory that was changed may lead anywhere.
            let table = sector(u64::try_from(directory).unwrap());
            if table + 512 < bytes.len() { table + (entry - 2) % 20 * 4 } else { directory }
        }
    }
}
