//! The tracking file itself: its header, as far as it is known.

use std::fs;

use vmdk::{ErrorKind, FieldMeaning, OpenOptions, VmdkImage};

use super::support::tools;
use super::{CTK, Host, ctk, text};

fn header(host: &Host, options: &OpenOptions) -> vmdk::Result<Option<vmdk::ChangeTrackingHeader>> {
    let image = VmdkImage::open(host.disk()).unwrap();
    options.change_tracking(&image.chain()[0])
}

#[test]
fn the_header_is_read_and_says_how_sure_each_field_is() {
    let host = Host::new();
    let found = header(&host, &OpenOptions::new()).unwrap().unwrap();
    assert_eq!((found.as_bytes(), found.presumed_version()), (&ctk()[..64], 1));
    let meanings: Vec<_> = found.fields().map(|field| field.meaning).collect();
    let count = |is: fn(&FieldMeaning) -> bool| meanings.iter().filter(|meaning| is(meaning)).count();
    assert_eq!(count(|meaning| matches!(meaning, FieldMeaning::Presumed(_))), 2);
    assert_eq!(count(|meaning| matches!(meaning, FieldMeaning::Guessed(_))), 2);
    assert_eq!(count(|meaning| *meaning == FieldMeaning::Unknown), 7);
    assert_eq!(found.fields().map(|field| field.bytes.len()).sum::<usize>(), 64);
    // Reading a disk has no use for it.
    fs::write(host.path(CTK), "nonsense").unwrap();
    VmdkImage::open(host.disk()).unwrap();
    fs::write(host.disk(), text(false).to_string()).unwrap();
    assert_eq!(header(&host, &OpenOptions::new()).unwrap(), None);
}

#[test]
fn what_is_missing_short_or_something_else_is_an_error_that_names_the_file() {
    let host = Host::new();
    for (bytes, word) in
        [(&ctk()[..63], "63 bytes"), (&[], "0 bytes"), (&[0; 4096], "a2 72 19 f6"), (b"KDMV", "4 bytes")]
    {
        fs::write(host.path(CTK), bytes).unwrap();
        let error = header(&host, &OpenOptions::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains(word) && error.to_string().contains(CTK), "{error}");
    }
    fs::remove_file(host.path(CTK)).unwrap();
    assert_eq!(header(&host, &OpenOptions::new()).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn its_name_is_followed_like_that_of_an_extent() {
    let host = Host::new();
    let elsewhere = tempfile::tempdir().unwrap();
    let outside = elsewhere.path().join("ctk");
    fs::write(&outside, ctk()).unwrap();
    host.name(outside.to_str().unwrap());
    let error = header(&host, &OpenOptions::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NameRefused);
    header(&host, &OpenOptions::new().allow_dir(elsewhere.path())).unwrap().unwrap();
    fs::write(host.disk(), text(true).to_string().replace(CTK, "../../etc/passwd")).unwrap();
    assert_eq!(header(&host, &OpenOptions::new()).unwrap_err().kind(), ErrorKind::NameRefused);
    if cfg!(unix) {
        fs::write(host.disk(), text(true).to_string().replace(CTK, "/dev/zero")).unwrap();
        let options = OpenOptions::new().allow_any_path(true);
        assert_eq!(header(&host, &options).unwrap_err().kind(), ErrorKind::NameRefused);
    }
}

/// The descriptors of tracked disks that ESX has made lose no other byte.
#[test]
fn those_of_esx_are_tracked_no_more_and_otherwise_as_they_were() {
    const TEST: &str = "those_of_esx_are_tracked_no_more_and_otherwise_as_they_were";
    let Some(samples) = tools::sample_dir(TEST) else { return };
    for (name, ctk) in
        [("vmfs-esxi8-v3-ctk.vmdk", "installer-ctk.vmdk"), ("vmfsRawDeviceMap-v3-ctk.vmdk", "Sever_2RDM-ctk.vmdk")]
    {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        let text = fs::read_to_string(samples.join("_text-descriptors").join(name)).unwrap();
        fs::write(&path, &text).unwrap();
        fs::write(dir.path().join(ctk), super::ctk()).unwrap();
        let dropped = OpenOptions::new().stop_change_tracking(&path).unwrap().unwrap();
        assert_eq!(dropped.renamed_to.unwrap(), format!("{ctk}.dropped"));
        let block = format!("# Change Tracking File\nchangeTrackPath=\"{ctk}\"\n\n");
        assert!(text.contains(&block));
        assert_eq!(fs::read_to_string(&path).unwrap(), text.replace(&block, "").replace("version=3", "version=1"));
    }
}
