//! The report as one JSON object. Its keys are listed in the help text of the command, and stay what they are.

use std::fmt::Write;

use serde_json::{Value, json};
use vmdk::{
    ChangeTrackingField, ChangeTrackingHeader, CowdHeader, Descriptor, Extent, ExtentLine, FieldMeaning, KdmvHeader,
    Link, SECTOR_SIZE, Salvaged, SeSparseHeader, SparseHeader, StoredName,
};

use super::{Report, bytes, extents_of, file_size, shown_name, uuid};
use crate::failure::{self, with_causes};

pub(super) fn render(report: &Report) -> failure::Result<String> {
    Ok(format!("{:#}\n", object(report)?))
}

fn object(report: &Report) -> failure::Result<Value> {
    let image = &report.image;
    let link = report.own_link();
    let descriptor = link.descriptor();
    let geometry =
        image.geometry().map(|chs| json!({ "cylinders": chs.cylinders, "heads": chs.heads, "sectors": chs.sectors }));
    let mut object = link_object(link)?;
    object["long_content_id"] = descriptor.long_content_id().map(|id| format!("{id:032x}")).into();
    object["parent_hint"] = descriptor.parent_hint().map(|hint| shown_name(descriptor, hint)).into();
    object["parent_hint_raw"] = descriptor.parent_hint_name().map(raw).into();
    object["parent_hint_error"] = descriptor.parent_hint_name().and_then(undecodable).into();
    object["encoding"] = descriptor.encoding().into();
    object["change_tracking"] = report.tracking.as_ref().map(|header| tracking_object(descriptor, header)).into();
    object["geometry"] = geometry.into();
    object["adapter_type"] = image.adapter_type().map(|adapter| adapter.to_string()).into();
    object["hardware_version"] = image.hardware_version().into();
    object["uuid"] = image.disk_id().map(uuid).into();
    object["header"] = link.header().map(header_object).into();
    object["extents"] = extents_of(link).map(|(extent, line)| extent_object(descriptor, extent, line)).collect();
    object["chain"] = image.chain().iter().map(|link| link_object(link)).collect::<failure::Result<_>>()?;
    object["chain_error"] = report.chain_error.as_deref().into();
    Ok(object)
}

/// What is said about the image and about each link of its chain.
fn link_object(link: &Link) -> failure::Result<Value> {
    Ok(json!({
        "path": link.path().to_string_lossy(),
        "create_type": link.descriptor().create_type().map(ToString::to_string),
        "cid": link.content_id().map(|id| id.to_string()),
        "parent_cid": link.parent_content_id().map(|id| id.to_string()),
        "change_track_path": link.descriptor().change_track_path().map(|raw| shown_name(link.descriptor(), raw)),
        "virtual_size": bytes(link.capacity_sectors()),
        "allocated_size": link.allocated_bytes()?,
        "file_size": file_size(link),
        "warnings": link.warnings(),
    }))
}

/// The bytes of a name in its file, as hexadecimal digits.
fn raw(name: StoredName<'_>) -> String {
    hex(name.as_bytes())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut digits, byte| {
        // Writing to a string does not fail.
        let _ = write!(digits, "{byte:02x}");
        digits
    })
}

/// Why a name is no string.
fn undecodable(name: StoredName<'_>) -> Option<String> {
    name.decode().err().map(|error| with_causes(&error))
}

fn tracking_object(descriptor: &Descriptor, header: &Result<ChangeTrackingHeader, String>) -> Value {
    let name = descriptor.change_track_name();
    let fields = |header: &ChangeTrackingHeader| header.fields().map(field_object).collect::<Vec<_>>();
    json!({
        "path": name.map(|name| shown_name(descriptor, name.as_bytes())),
        "path_raw": name.map(raw),
        "path_error": name.and_then(undecodable),
        "header": header.as_ref().ok().map(|header| hex(header.as_bytes())),
        "fields": header.as_ref().ok().map(fields),
        "error": header.as_ref().err(),
    })
}

fn field_object(field: ChangeTrackingField<'_>) -> Value {
    let (certainty, meaning) = match field.meaning {
        FieldMeaning::Presumed(what) => ("presumed", Some(what)),
        FieldMeaning::Guessed(what) => ("guessed", Some(what)),
        _ => ("unknown", None),
    };
    json!({
        "offset": field.offset,
        "size": field.bytes.len(),
        "raw": hex(field.bytes),
        "meaning": meaning,
        "certainty": certainty,
    })
}

fn extent_object(descriptor: &Descriptor, extent: &Extent, line: Option<&ExtentLine>) -> Value {
    let name = line.and_then(|line| descriptor.extent_name(line));
    json!({
        "access": extent.access().as_str(),
        "type": extent.kind().as_str(),
        "start": bytes(extent.start_sector()),
        "size": bytes(extent.sectors()),
        "name": name.map(|name| shown_name(descriptor, name.as_bytes())),
        "name_raw": name.map(raw),
        "name_error": name.and_then(undecodable),
        "path": extent.file().map(|file| file.path().to_string_lossy()),
        "offset": extent.file_offset(),
        "header": extent.header().map(header_object),
        "salvaged": extent.salvaged().as_ref().map(salvaged_object),
    })
}

fn salvaged_object(found: &Salvaged) -> Value {
    json!({
        "grains": found.grains,
        "end": bytes(found.end_sector),
        "end_offset": found.end_offset,
        "problem": found.problem,
        "missing_grains": found.missing_grains,
        "damaged": found.damaged_sectors.iter().map(|&sector| bytes(sector)).collect::<Vec<_>>(),
        "complete": found.is_complete(),
    })
}

fn header_object(header: &SparseHeader) -> Value {
    match header {
        SparseHeader::Kdmv(header) => kdmv_object(header),
        SparseHeader::Cowd(header) => cowd_object(header),
        SparseHeader::SeSparse(header) => sesparse_object(header),
        _ => Value::Null,
    }
}

fn kdmv_object(header: &KdmvHeader) -> Value {
    json!({
        "format": "KDMV",
        "version": header.version,
        "flags": header.flags,
        "capacity": bytes(header.capacity),
        "grain_size": bytes(header.grain_size),
        "descriptor_offset": bytes(header.descriptor_offset),
        "descriptor_size": bytes(header.descriptor_size),
        "gtes_per_gt": header.gtes_per_gt,
        "rgd_offset": bytes(header.rgd_offset),
        "gd_offset": bytes(header.gd_offset),
        "overhead": bytes(header.over_head),
        "unclean_shutdown": header.unclean_shutdown != 0,
        "compress_algorithm": header.compress_algorithm,
    })
}

fn sesparse_object(header: &SeSparseHeader) -> Value {
    json!({
        "format": "seSparse",
        "version": header.version,
        "flags": header.flags,
        "capacity": bytes(header.capacity),
        "grain_size": bytes(header.grain_size),
        "gtes_per_gt": bytes(header.grain_table_size).map(|len| len / 8),
        "gd_offset": bytes(header.grain_directory.offset),
        "gt_offset": bytes(header.grain_tables.offset),
        "bitmap_offset": bytes(header.free_bitmap.offset),
        "back_map_offset": bytes(header.back_map.offset),
        "grains_offset": bytes(header.grains.offset),
        "tables": header.free_gt_number,
        "next_transaction": header.next_txn_seq_number,
        "unclean_shutdown": header.replay_journal != 0,
    })
}

fn cowd_object(header: &CowdHeader) -> Value {
    let sectors = |sectors: u32| u64::from(sectors) * SECTOR_SIZE as u64;
    json!({
        "format": "COWD",
        "version": header.version,
        "flags": header.flags,
        "capacity": sectors(header.num_sectors),
        "grain_size": sectors(header.grain_size),
        "gtes_per_gt": header.entries_per_table(),
        "gd_offset": sectors(header.gd_offset),
        "gd_entries": header.num_gd_entries,
        "free_offset": sectors(header.free_sector),
        "generation": header.generation,
        "unclean_shutdown": header.unclean_shutdown != 0,
    })
}
