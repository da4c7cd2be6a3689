//! What the files of a disk are called, by the name of the one with its descriptor.

use crate::descriptor::{CreateType, ExtentKind};
use crate::error::{Error, ErrorKind, Result};

/// Refuses what is a path, or nothing. The extents are named after the disk and beside it, wherever it is opened from.
pub(crate) fn check_name(name: &str) -> Result<()> {
    if matches!(name, "" | "." | "..") || name.contains(['/', '\0', std::path::MAIN_SEPARATOR]) {
        let text = format!("the name {name:?}; the name of a file is wanted, without a path");
        return Err(Error::text(ErrorKind::InvalidInput, text));
    }
    Ok(())
}

/// The file of an extent of a new disk, by the rules of VMware's products.
pub(crate) fn extent_name(name: &str, create_type: &CreateType, number: u32) -> String {
    let stem = stem(name);
    match create_type {
        CreateType::TwoGbMaxExtentSparse => format!("{stem}-s{number:03}.vmdk"),
        CreateType::TwoGbMaxExtentFlat => format!("{stem}-f{number:03}.vmdk"),
        CreateType::MonolithicFlat | CreateType::Vmfs => format!("{stem}-flat.vmdk"),
        CreateType::VmfsSparse => format!("{stem}-delta.vmdk"),
        _ => name.to_owned(),
    }
}

/// The name of a file of the disk `old` once that is called `new`: with the same ending, where it begins as the disk
/// does. `None` for one with a name of its own.
pub(crate) fn renamed(file: &str, old: &str, new: &str) -> Option<String> {
    let ending = file.strip_prefix(stem(old))?;
    // `disk2-flat.vmdk` is named after `disk2.vmdk`, not after `disk.vmdk`.
    let is_of_disk = ending.starts_with(|char: char| !char.is_alphanumeric());
    is_of_disk.then(|| format!("{}{ending}", stem(new)))
}

/// The name for the file of an extent whose old one says nothing, as that with this number, from 1 on, of an extent of
/// this kind; `is_only` one of the disk.
pub(crate) fn further_name(name: &str, kind: ExtentKind, number: usize, is_only: bool) -> String {
    let stem = stem(name);
    match kind {
        ExtentKind::VmfsSparse if is_only => format!("{stem}-delta.vmdk"),
        ExtentKind::Flat | ExtentKind::Vmfs if is_only => format!("{stem}-flat.vmdk"),
        ExtentKind::Sparse | ExtentKind::VmfsSparse => format!("{stem}-s{number:03}.vmdk"),
        _ => format!("{stem}-f{number:03}.vmdk"),
    }
}

/// A name without the ending of all disks.
fn stem(name: &str) -> &str {
    let suffix = name.len().checked_sub(5).filter(|&at| name.is_char_boundary(at) && at > 0);
    match suffix.map(|at| name.split_at(at)) {
        Some((stem, suffix)) if suffix.eq_ignore_ascii_case(".vmdk") => stem,
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ending_of_a_name_stays() {
        for (file, old, new, expected) in [
            ("a-s001.vmdk", "a.vmdk", "b.vmdk", Some("b-s001.vmdk")),
            ("a-flat.VMDK", "a.VMDK", "b", Some("b-flat.VMDK")),
            ("x.vmdk-delta.REDO_1", "x.vmdk", "y.vmdk", Some("y.vmdk-delta.REDO_1")),
            ("x-delta.REDO", "x", "y z.vmdk", Some("y z-delta.REDO")),
            ("a2-flat.vmdk", "a.vmdk", "b.vmdk", None),
            ("other.vmdk", "a.vmdk", "b.vmdk", None),
            ("\u{e4}-f001.vmdk", "\u{e4}.vmdk", "\u{78c1}.vmdk", Some("\u{78c1}-f001.vmdk")),
        ] {
            assert_eq!(renamed(file, old, new).as_deref(), expected, "{file}");
        }
    }

    #[test]
    fn a_name_that_says_nothing_is_replaced_by_one_that_does() {
        for (kind, number, is_only, expected) in [
            (ExtentKind::Flat, 1, true, "a-flat.vmdk"),
            (ExtentKind::Vmfs, 1, true, "a-flat.vmdk"),
            (ExtentKind::VmfsSparse, 1, true, "a-delta.vmdk"),
            (ExtentKind::Sparse, 1, true, "a-s001.vmdk"),
            (ExtentKind::Sparse, 12, false, "a-s012.vmdk"),
            (ExtentKind::Flat, 1000, false, "a-f1000.vmdk"),
        ] {
            assert_eq!(further_name("a.vmdk", kind, number, is_only), expected);
        }
    }
}
