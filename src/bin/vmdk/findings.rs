//! What a check has found, for people and for programs.

use std::fmt::Write;

use serde_json::{Value, json};
use vmdk::{CheckReport, Finding, SECTOR_SIZE, Severity};

use crate::printable::printable;

/// A line for each finding, and one that counts them.
pub(crate) fn text(report: &CheckReport) -> String {
    let mut text = String::new();
    for finding in &report.findings {
        line(&mut text, finding);
    }
    let count = |severity, one: &str, many: &str| match report.total(severity) {
        1 => format!("1 {one}"),
        count => format!("{count} {many}"),
    };
    let found = [
        count(Severity::Corruption, "corruption", "corruptions"),
        count(Severity::Inconsistency, "inconsistency", "inconsistencies"),
        count(Severity::Note, "note", "notes"),
    ];
    // A String takes everything.
    let _ = writeln!(text, "{}", found.join(", "));
    if report.leaked_bytes > 0 {
        let _ = writeln!(text, "{} bytes that nothing uses", report.leaked_bytes);
    }
    text
}

fn line(text: &mut String, finding: &Finding) {
    let file = finding.file.to_string_lossy();
    let _ = write!(text, "{}: {}", printable(&file), finding.severity.as_str());
    if let Some(guest) = &finding.guest {
        let _ = write!(text, ", sectors {} to {}", guest.start, guest.end - 1);
    }
    if let Some(host) = &finding.host {
        let _ = write!(text, ", at offset {:#x}", host.start);
    }
    // An error that was met names the file itself.
    let own = finding.text.strip_prefix(&format!("{file}: ")).unwrap_or(&finding.text);
    let _ = write!(text, ": {}", printable(own));
    if finding.count > 1 {
        let _ = write!(text, " (and {} more)", finding.count - 1);
    }
    match finding.remedy {
        Some(remedy) => {
            let _ = writeln!(text, "; repair: {}", remedy.as_str());
        }
        None => text.push('\n'),
    }
}

/// The same as an object.
pub(crate) fn object(report: &CheckReport) -> Value {
    let counts = report
        .kinds()
        .map(|(kind, severity, count)| json!({ "kind": kind.as_str(), "severity": severity.as_str(), "count": count }));
    json!({
        "clean": report.is_clean(),
        "links": report.links,
        "corruptions": report.total(Severity::Corruption),
        "inconsistencies": report.total(Severity::Inconsistency),
        "notes": report.total(Severity::Note),
        "leaked_bytes": report.leaked_bytes,
        "counts": counts.collect::<Vec<_>>(),
        "findings": report.findings.iter().map(finding_object).collect::<Vec<_>>(),
    })
}

fn finding_object(finding: &Finding) -> Value {
    let bytes = |sectors: u64| sectors.checked_mul(SECTOR_SIZE as u64);
    json!({
        "kind": finding.kind.as_str(),
        "severity": finding.severity.as_str(),
        "link": finding.link,
        "extent": finding.extent,
        "file": finding.file.to_string_lossy(),
        "start": finding.guest.as_ref().map(|guest| bytes(guest.start)),
        "length": finding.guest.as_ref().map(|guest| bytes(guest.end - guest.start)),
        "offset": finding.host.as_ref().map(|host| host.start),
        "end_offset": finding.host.as_ref().map(|host| host.end),
        "count": finding.count,
        "text": finding.text,
        "repair": finding.remedy.map(vmdk::Remedy::as_str),
    })
}
