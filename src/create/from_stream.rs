//! A new image with the content of a stream.

use std::io::Read;
use std::ops::ControlFlow;
use std::path::Path;

use super::new_files::Kept;
use super::{CreateOptions, Draft, Place, Plan};
use crate::descriptor::{Descriptor, Geometry, is_quotable};
use crate::error::{Error, ErrorKind, Result};
use crate::image::CopyProgress;
use crate::stream::{StreamReader, StreamSummary, check_no_delta};

impl CreateOptions {
    /// Makes an image at `path` that holds what `stream` holds, as [`create_from`](Self::create_from) does for a disk
    /// that is read at random, inflating on so many threads as [`StreamReader::for_each_grain`] does. What the stream
    /// says of itself is kept by [`like_descriptor`](Self::like_descriptor).
    ///
    /// # Errors
    /// As for [`create_from`](Self::create_from) and [`StreamReader::copy_to`], or for a streamOptimized disk
    /// [`StreamWriter::write_all_from_stream`](crate::StreamWriter::write_all_from_stream); nothing of the image is
    /// left then.
    pub fn create_from_stream<R: Read>(
        &self,
        path: impl AsRef<Path>,
        stream: &mut StreamReader<R>,
        threads: usize,
        progress: &mut dyn FnMut(CopyProgress) -> ControlFlow<()>,
    ) -> Result<StreamSummary> {
        check_no_delta(stream)?;
        let of_stream = stream.capacity_sectors();
        let capacity = self.capacity_sectors.unwrap_or(of_stream);
        if capacity < of_stream {
            let text = format!("a disk of {capacity} sectors has no room for the {of_stream} of its source");
            return Err(Error::text(ErrorKind::InvalidInput, text));
        }
        let place = Place::of(path.as_ref())?.private_if(self.replace);
        let named = |error: Error| error.in_file(&place.path());
        let plan = Plan::new(&self.clone().capacity_sectors(capacity), &place.name, None).map_err(named)?;
        let directory = &place.directory;
        let mut draft = Draft::begin(plan, directory, directory.path(), self, &Kept::default()).map_err(named)?;
        let mut summary = stream.summary();
        if draft.plan.is_stream() {
            draft.make_stream(self, |written| {
                summary = written.write_all_from_stream(stream, threads, progress)?;
                Ok(())
            })?;
        } else {
            draft.make_filled_by(None, |image| {
                summary = stream.copy_to(image, threads, progress)?;
                Ok(())
            })?;
        }
        draft.publish().map_err(named)?;
        draft.keep();
        Ok(summary)
    }

    /// Takes adapter type, hardware version, geometry and identity from a descriptor, as far as it has them.
    pub fn like_descriptor(mut self, descriptor: &Descriptor) -> Self {
        let has_sense = |chs: &Geometry| chs.cylinders > 0 && chs.heads > 0 && chs.sectors > 0;
        let adapter = descriptor.adapter_type().filter(|adapter| is_quotable(adapter.as_str()));
        self.adapter_type = adapter.or(self.adapter_type);
        self.hardware_version = descriptor.hardware_version().or(self.hardware_version);
        self.geometry = descriptor.geometry().filter(has_sense).or(self.geometry);
        self.disk_id = descriptor.disk_id().or(self.disk_id);
        self
    }
}
