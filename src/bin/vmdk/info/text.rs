//! The report for people: aligned lines of keys and values.

use std::fmt::Write;

use vmdk::{
    BlockDevice, CowdHeader, Descriptor, Extent, ExtentLine, KdmvHeader, Link, SECTOR_SIZE, SeSparseHeader,
    SparseHeader,
};

use super::{Report, bytes, extents_of, file_size, shown_name, uuid};
use crate::failure::Result;
use crate::printable::printable;
use crate::size;

pub(super) fn render(report: &Report) -> Result<String> {
    let mut rows = Rows::default();
    own_rows(&mut rows, report)?;
    let link = report.own_link();
    for (index, (extent, line)) in extents_of(link).enumerate() {
        extent_rows(&mut rows, index, extent);
        file_rows(&mut rows, link.descriptor(), extent, line);
    }
    chain_rows(&mut rows, report)?;
    Ok(rows.aligned())
}

/// Keys and values, with everything from an image made harmless.
#[derive(Default)]
struct Rows(Vec<(String, String)>);

impl Rows {
    fn add(&mut self, key: impl Into<String>, value: impl AsRef<str>) {
        self.0.push((key.into(), printable(value.as_ref())));
    }

    fn add_known(&mut self, key: &str, value: Option<String>) {
        if let Some(value) = value {
            self.add(key, value);
        }
    }

    fn add_warnings(&mut self, key: &str, link: &Link) {
        for warning in link.warnings() {
            self.add(key, warning);
        }
    }

    fn aligned(&self) -> String {
        let width = self.0.iter().map(|(key, _)| key.len()).max().unwrap_or(0) + 1;
        let mut text = String::new();
        for (key, value) in &self.0 {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{:<width$} {value}", format!("{key}:"));
        }
        text
    }
}

fn own_rows(rows: &mut Rows, report: &Report) -> Result<()> {
    let image = &report.image;
    let link = report.own_link();
    let descriptor = link.descriptor();
    rows.add("path", link.path().to_string_lossy());
    rows.add("create type", create_type(link));
    rows.add("virtual size", bytes(image.capacity_sectors()).map_or_else(String::new, size::show));
    rows.add("allocated size", size::show(link.allocated_bytes()?));
    rows.add("file size", size::show(file_size(link)));
    rows.add("CID", or_none(link.content_id()));
    rows.add("parent CID", or_none(link.parent_content_id()));
    rows.add_known("long content ID", descriptor.long_content_id().map(|id| format!("{id:032x}")));
    rows.add_known("parent hint", descriptor.parent_hint().map(|hint| shown_name(descriptor, hint)));
    tracking_rows(rows, report);
    rows.add_known("geometry", image.geometry().map(|chs| format!("{chs} (cylinders/heads/sectors)")));
    rows.add_known("adapter type", image.adapter_type().map(|adapter| adapter.to_string()));
    rows.add_known("hardware version", image.hardware_version().map(|version| version.to_string()));
    rows.add_known("UUID", image.disk_id().map(uuid));
    // The header of a file that holds an extent is shown with that extent.
    if let Some(header) = link.header().filter(|own| link.extents().iter().all(|it| it.header() != Some(own))) {
        header_rows(rows, "", header);
    }
    rows.add_warnings("warning", link);
    Ok(())
}

fn tracking_rows(rows: &mut Rows, report: &Report) {
    let descriptor = report.own_link().descriptor();
    rows.add_known("change tracking", descriptor.change_track_path().map(|raw| shown_name(descriptor, raw)));
    match &report.tracking {
        Some(Ok(header)) => {
            let version = format!("a change tracking file, of version {} (presumed)", header.presumed_version());
            rows.add("  header", version);
        }
        Some(Err(problem)) => rows.add("  header", format!("not read: {problem}")),
        None => {}
    }
}

fn extent_rows(rows: &mut Rows, index: usize, extent: &Extent) {
    let (access, kind) = (extent.access(), extent.kind());
    let (start, sectors) = (extent.start_sector(), extent.sectors());
    rows.add(format!("extent {index}"), format!("{access} {kind}, {sectors} sectors from sector {start}"));
}

fn file_rows(rows: &mut Rows, descriptor: &Descriptor, extent: &Extent, line: Option<&ExtentLine>) {
    if let Some(file) = extent.file() {
        rows.add("  file", file.path().to_string_lossy());
    } else if let Some(name) = line.and_then(ExtentLine::name) {
        rows.add("  file", format!("{} (not opened)", shown_name(descriptor, name)));
    }
    rows.add_known("  offset", extent.file_offset().map(size::show));
    rows.add_known("  salvaged", extent.salvaged().map(|found| found.to_string()));
    if let Some(header) = extent.header() {
        header_rows(rows, "  ", header);
    }
}

fn header_rows(rows: &mut Rows, indent: &str, header: &SparseHeader) {
    match header {
        SparseHeader::Kdmv(header) => kdmv_rows(rows, indent, header),
        SparseHeader::Cowd(header) => cowd_rows(rows, indent, header),
        SparseHeader::SeSparse(header) => sesparse_rows(rows, indent, header),
        _ => {}
    }
}

fn sesparse_rows(rows: &mut Rows, indent: &str, header: &SeSparseHeader) {
    let stale = if header.replay_journal != 0 { ", its journal not replayed" } else { "" };
    let version = format!("{}.{}", header.version >> 32, header.version & u64::from(u32::MAX));
    rows.add(format!("{indent}header"), format!("seSparse version {version}{stale}"));
    rows.add_known(&format!("{indent}grain size"), bytes(header.grain_size).map(size::show));
    rows.add(format!("{indent}tables in use"), header.free_gt_number.to_string());
}

fn cowd_rows(rows: &mut Rows, indent: &str, header: &CowdHeader) {
    let unclean = if header.unclean_shutdown != 0 { ", not closed cleanly" } else { "" };
    let (version, flags) = (header.version, header.flags);
    rows.add(format!("{indent}header"), format!("COWD version {version}, flags {flags:#x}{unclean}"));
    rows.add(format!("{indent}grain size"), size::show(u64::from(header.grain_size) * SECTOR_SIZE as u64));
}

fn kdmv_rows(rows: &mut Rows, indent: &str, header: &KdmvHeader) {
    let sectors = |sectors: u64| bytes(sectors).map_or_else(|| format!("{sectors} sectors"), size::show);
    let place = |sector: u64| if sector == u64::MAX { "in the footer".to_owned() } else { format!("sector {sector}") };
    let flags = [
        (header.has_redundant_tables(), ", redundant tables"),
        (header.has_zero_grains(), ", zero grains"),
        (header.is_compressed(), ", compressed"),
        (header.unclean_shutdown != 0, ", not closed cleanly"),
    ];
    let flags: String = flags.iter().filter(|(set, _)| *set).map(|(_, name)| *name).collect();
    rows.add(format!("{indent}header"), format!("version {}, flags {:#x}{flags}", header.version, header.flags));
    rows.add(format!("{indent}capacity"), sectors(header.capacity));
    rows.add(format!("{indent}grain size"), sectors(header.grain_size));
    rows.add(format!("{indent}table"), format!("{} entries", header.gtes_per_gt));
    rows.add(format!("{indent}directory"), place(header.gd_offset));
    if header.has_redundant_tables() {
        rows.add(format!("{indent}2nd directory"), place(header.rgd_offset));
    }
    if header.descriptor_offset != 0 {
        let room = format!("{}, {} sectors", place(header.descriptor_offset), header.descriptor_size);
        rows.add(format!("{indent}descriptor"), room);
    }
    rows.add(format!("{indent}metadata"), sectors(header.over_head));
}

fn chain_rows(rows: &mut Rows, report: &Report) -> Result<()> {
    let links = report.image.chain();
    let state = match (&report.chain_error, links.len()) {
        (Some(reason), _) => format!("broken: {reason}"),
        (None, 1) => "complete, 1 link".to_owned(),
        (None, links) => format!("complete, {links} links"),
    };
    rows.add("chain", state);
    if links.len() == 1 {
        // Its link is the image, about which everything is said above.
        return Ok(());
    }
    for (index, link) in links.iter().enumerate() {
        rows.add(format!("link {index}"), link.path().to_string_lossy());
        rows.add("  create type", create_type(link));
        rows.add("  CID", or_none(link.content_id()));
        rows.add("  virtual size", bytes(link.capacity_sectors()).map_or_else(String::new, size::show));
        rows.add("  allocated size", size::show(link.allocated_bytes()?));
        // Those of the image itself stand further up.
        if index > 0 {
            rows.add_warnings("  warning", link);
        }
    }
    Ok(())
}

fn create_type(link: &Link) -> String {
    link.descriptor().create_type().map_or_else(|| "none".to_owned(), ToString::to_string)
}

fn or_none(id: Option<vmdk::ContentId>) -> String {
    id.map_or_else(|| "none".to_owned(), |id| id.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_aligned_and_harmless() {
        let mut rows = Rows::default();
        rows.add("CID", "12345678");
        rows.add("  long key", "a\nb\u{1b}[31m");
        assert_eq!(rows.aligned(), "CID:        12345678\n  long key: a\\nb\\u{1b}[31m\n");
    }
}
