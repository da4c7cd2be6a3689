//! Images with nothing wrong: a check has no more than notes, whoever has made them.

use std::ops::ControlFlow;

use vmdk::{CheckOptions, ErrorKind, FindingKind, OpenOptions, Severity};

use super::subject::{check, disk, files_of};
use super::support::disk::Kind;
use super::support::{fixtures, tools};

#[test]
fn images_of_all_kinds_are_clean_with_their_chains() {
    for kind in Kind::ALL {
        let images = kind.disk(3).links;
        let files = files_of(&images);
        let options = CheckOptions::new().chain(true).threads(2);
        let name = &files.last().unwrap().0;
        let report = OpenOptions::new().check_in(name, &disk(&files), &options, &mut |_| ControlFlow::Continue(()));
        let report = report.unwrap();
        assert!(report.is_clean(), "{kind:?}: {:#?}", report.findings);
        assert_eq!(report.links, images.len());
    }
}

#[test]
fn fixtures_are_clean() {
    for row in fixtures::manifest() {
        let path = fixtures::path(&row.file);
        let options = CheckOptions::new().chain(true).threads(2);
        let report = OpenOptions::new().check(&path, &options, &mut |_| ControlFlow::Continue(()));
        match report {
            Ok(report) => assert!(report.is_clean(), "{}: {:#?}", row.file, report.findings),
            Err(error) => panic!("{}: {error}", row.file),
        }
    }
}
