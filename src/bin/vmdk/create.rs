//! `vmdk create` and `vmdk snapshot`: new disks without content of their own.

use vmdk::{CreateOptions, SECTOR_SIZE};

use crate::args::{CreateArgs, SnapshotArgs};
use crate::failure::{Failure, Result};

pub(crate) fn create(args: &CreateArgs) -> Result<()> {
    if !args.size.is_multiple_of(SECTOR_SIZE as u64) {
        return Err(Failure::Refused(format!(
            "a disk of {} bytes is not a whole number of sectors of 512 bytes",
            args.size
        )));
    }
    let options = CreateOptions::new().create_type(args.create_type.clone());
    let options = options.capacity_sectors(args.size / SECTOR_SIZE as u64);
    let options = args.new.options(args.disk.options(options)).map_err(Failure::Refused)?;
    Ok(options.create(&args.path)?)
}

pub(crate) fn snapshot(args: &SnapshotArgs) -> Result<()> {
    let options = args.new.options(CreateOptions::new()).map_err(Failure::Refused)?;
    let options = match &args.create_type {
        Some(create_type) => options.create_type(create_type.clone()),
        None => options,
    };
    let parent = args.open.options().open(&args.below)?;
    parent.create_child(&args.child, &options)?.close()?;
    Ok(())
}
