//! The content of a grain: compressed and back. No I/O here.
//!
//! Source: the container is zlib's (RFC 1950) in every known file, whatever VMware's technical note calls it.

mod deflate;
mod incompressible;
mod inflate;

pub(crate) use deflate::Deflater;
pub(crate) use inflate::Inflater;
