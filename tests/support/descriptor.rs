//! A builder of descriptor texts, in the spelling of VMware or of QEMU.

use std::fmt::{self, Display, Formatter};

/// Whose spelling a text follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Content IDs of eight digits, `encoding`, `isNativeSnapshot`.
    Vmware,
    /// Content IDs without leading zeros, no further keys.
    Qemu,
}

/// The parent's content ID in a link that has no parent.
pub const NO_PARENT: u32 = 0xffff_ffff;

/// A descriptor in the making.
#[derive(Clone, Debug)]
pub struct DescriptorText {
    style: Style,
    version: u32,
    cid: u32,
    parent_cid: u32,
    create_type: String,
    hint: Option<String>,
    extents: Vec<String>,
    change_track_path: Option<String>,
    ddb: Vec<(String, String)>,
}

impl DescriptorText {
    /// A text without extents and database, in VMware's spelling.
    pub fn new(create_type: &str, cid: u32) -> Self {
        Self {
            style: Style::Vmware,
            version: 1,
            cid,
            parent_cid: NO_PARENT,
            create_type: create_type.to_owned(),
            hint: None,
            extents: Vec::new(),
            change_track_path: None,
            ddb: Vec::new(),
        }
    }

    /// Whose spelling to follow.
    pub fn style(mut self, style: Style) -> Self {
        self.style = style;
        self
    }

    /// The version of the descriptor.
    pub fn version(mut self, version: u32) -> Self {
        self.version = version;
        self
    }

    /// Makes the link a child.
    pub fn parent(mut self, cid: u32, hint: &str) -> Self {
        self.parent_cid = cid;
        self.hint = Some(hint.to_owned());
        self
    }

    /// One more extent line, as it is to be.
    pub fn extent(mut self, line: impl Into<String>) -> Self {
        self.extents.push(line.into());
        self
    }

    /// The change tracking file.
    pub fn change_track_path(mut self, path: &str) -> Self {
        self.change_track_path = Some(path.to_owned());
        self
    }

    /// A key of the disk database; `ddb.` is put before it.
    pub fn ddb(mut self, key: &str, value: impl Display) -> Self {
        self.ddb.push((key.to_owned(), value.to_string()));
        self
    }

    /// The keys that every base of `capacity` sectors has, for an IDE disk.
    pub fn ide_ddb(self, capacity: u64) -> Self {
        self.ddb("virtualHWVersion", 4)
            .ddb("geometry.cylinders", capacity / (16 * 63))
            .ddb("geometry.heads", 16)
            .ddb("geometry.sectors", 63)
            .ddb("adapterType", "ide")
            .ddb("toolsVersion", 2_147_483_647)
    }
}

impl Display for DescriptorText {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let vmware = self.style == Style::Vmware;
        let digits = if vmware { 8 } else { 1 };
        writeln!(f, "# Disk DescriptorFile\nversion={}", self.version)?;
        if vmware {
            writeln!(f, "encoding=\"UTF-8\"")?;
        }
        writeln!(f, "CID={:0digits$x}\nparentCID={:0digits$x}", self.cid, self.parent_cid)?;
        if vmware {
            writeln!(f, "isNativeSnapshot=\"no\"")?;
        }
        writeln!(f, "createType=\"{}\"", self.create_type)?;
        if let Some(hint) = &self.hint {
            writeln!(f, "parentFileNameHint=\"{hint}\"")?;
        }
        // In VMware's children the hint is followed by the comment at once.
        if !(vmware && self.hint.is_some()) {
            writeln!(f)?;
        }
        writeln!(f, "# Extent description")?;
        for extent in &self.extents {
            writeln!(f, "{extent}")?;
        }
        if let Some(path) = &self.change_track_path {
            writeln!(f, "\n# Change Tracking File\nchangeTrackPath=\"{path}\"")?;
        }
        writeln!(f, "\n# The Disk Data Base{}\n#DDB\n", if vmware { " " } else { "" })?;
        for (key, value) in &self.ddb {
            writeln!(f, "ddb.{key} = \"{value}\"")?;
        }
        Ok(())
    }
}
