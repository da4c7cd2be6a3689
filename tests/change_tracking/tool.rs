//! The tool: what it shows, and what ends the tracking.

use std::process::Output;

use serde_json::Value;

use super::support::tools::hex;
use super::support::vmdk_tool::{self, said};
use super::{CTK, DROPPED, Host, SECTORS, ctk, without_ids};

fn vmdk(host: &Host, args: &[&str]) -> Output {
    vmdk_tool::vmdk(host.dir.path(), args)
}

fn json(output: &Output) -> Value {
    assert_eq!(output.status.code(), Some(0));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn info_shows_the_tracking_file_and_how_sure_its_fields_are() {
    let host = Host::new();
    let text = said(&vmdk(&host, &["info", "disk.vmdk"]), 0);
    assert!(text.contains(CTK) && text.contains("version 1 (presumed)"), "{text}");
    let shown = json(&vmdk(&host, &["info", "disk.vmdk", "--json"]));
    let tracking = &shown["change_tracking"];
    assert_eq!((&tracking["path"], &tracking["path_raw"]), (&CTK.into(), &hex(CTK.as_bytes()).into()));
    assert_eq!(tracking["header"], hex(&ctk()[..64]));
    assert_eq!((&tracking["error"], &tracking["path_error"]), (&Value::Null, &Value::Null));
    let fields = tracking["fields"].as_array().unwrap();
    assert_eq!(fields.len(), 11);
    assert_eq!((&fields[0]["meaning"], &fields[0]["certainty"]), (&"signature".into(), &"presumed".into()));
    assert_eq!((&fields[2]["meaning"], &fields[2]["certainty"]), (&Value::Null, &"unknown".into()));
    assert_eq!((&fields[9]["raw"], &fields[9]["certainty"]), (&hex(&ctk()[44..60]).into(), &"guessed".into()));
    assert_eq!(shown["chain"][0]["change_track_path"], CTK);
    // That there is none is no reason to say less.
    std::fs::remove_file(host.path(CTK)).unwrap();
    let text = said(&vmdk(&host, &["info", "disk.vmdk"]), 0);
    assert!(text.contains(CTK) && text.contains("not read"), "{text}");
    let shown = json(&vmdk(&host, &["info", "disk.vmdk", "--json"]));
    assert_eq!((&shown["change_tracking"]["path"], &shown["change_tracking"]["header"]), (&CTK.into(), &Value::Null));
    assert!(shown["change_tracking"]["error"].as_str().unwrap().contains(CTK));
    std::fs::write(host.disk(), super::text(false).to_string()).unwrap();
    let shown = json(&vmdk(&host, &["info", "disk.vmdk", "--json"]));
    assert_eq!((&shown["change_tracking"], &shown["change_track_path"]), (&Value::Null, &Value::Null));
    assert!(!said(&vmdk(&host, &["info", "disk.vmdk"]), 0).contains("tracking"));
}

#[test]
fn commands_that_write_end_the_tracking_if_they_are_told_to() {
    for command in
        [&["zero", "disk.vmdk", "0", "512"][..], &["discard", "disk.vmdk", "0", "512"], &["write", "disk.vmdk", "0"]]
    {
        let host = Host::new();
        let before = host.text();
        if command[0] != "write" {
            assert!(said(&vmdk(&host, command), 2).contains("--drop-change-tracking"));
        }
        assert_eq!(host.text(), before);
        let text = said(&vmdk(&host, &[command, &["--drop-change-tracking"]].concat()), 0);
        if command[0] == "write" {
            // Of an empty input nothing is written.
            assert_eq!((host.text(), text), (before, String::new()));
        } else {
            assert!(text.contains(CTK) && text.contains(DROPPED), "{text}");
            assert_eq!(without_ids(&host.text()), without_ids(&super::text(false).to_string()));
            assert!(host.has(DROPPED) && !host.has(CTK));
        }
    }
}

#[test]
fn untrack_ends_it_and_says_what_became_of_the_file() {
    let host = Host::new();
    let shown = json(&vmdk(&host, &["untrack", "disk.vmdk", "--json"]));
    assert_eq!((&shown["changed"], &shown["file"], &shown["renamed_to"]), (&true.into(), &CTK.into(), &DROPPED.into()));
    assert_eq!(shown["left_because"], Value::Null);
    assert_eq!(host.text(), super::text(false).to_string());
    assert_eq!(json(&vmdk(&host, &["untrack", "disk.vmdk", "--json"]))["changed"], false);
    assert_eq!(said(&vmdk(&host, &["untrack", "disk.vmdk"]), 0), "the disk was not tracked\n");
    let more = (SECTORS * 512 * 2).to_string();
    said(&vmdk(&host, &["resize", "disk.vmdk", &more]), 0);
    let host = Host::new();
    host.name("../victim");
    let text = said(&vmdk(&host, &["untrack", "disk.vmdk"]), 0);
    assert!(text.contains("../victim") && text.contains("left as it is"), "{text}");
    let host = Host::new();
    assert!(said(&vmdk(&host, &["resize", "disk.vmdk", &more]), 2).contains("vmdk untrack"));
}
