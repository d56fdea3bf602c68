//! One log file: appending whole groups, cutting off what failed, putting aside what is full.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::private;
use crate::SinkError;

/// How much of a file's end is read at a time when looking for the last whole line.
const REPAIR_CHUNK_BYTES: u64 = 64 * 1024;

/// Appends to one file.
#[derive(Debug)]
pub(super) struct Writer {
    path: PathBuf,
    /// None after a failure that left the file in an unknown state; opened and repaired at the next write.
    file: Option<File>,
    size: u64,
    max_bytes: u64,
    kept: u32,
    buffer: Vec<u8>,
}

impl Writer {
    pub(super) fn open(path: &Path, max_bytes: u64, kept: u32) -> io::Result<Self> {
        let mut writer = Self {
            path: path.to_owned(),
            file: None,
            size: 0,
            max_bytes,
            kept,
            buffer: Vec::new(),
        };
        writer.ready()?;
        Ok(writer)
    }

    /// Appends all lines or none, and has them on the disk when it returns without error.
    pub(super) fn write<'a>(
        &mut self,
        lines: impl Iterator<Item = &'a Bytes>,
    ) -> Result<(), SinkError> {
        self.buffer.clear();
        for line in lines {
            self.buffer.extend_from_slice(line);
            self.buffer.push(b'\n');
        }
        let written = self.append();
        if self.buffer.capacity() > super::MAX_GROUP_BYTES / 4 {
            self.buffer = Vec::new();
        }
        written.map_err(|source| self.failed(source))
    }

    /// Opens the file that has the name now.
    pub(super) fn reopen(&mut self) -> Result<(), SinkError> {
        self.file = None;
        self.ready().map(drop).map_err(|source| self.failed(source))
    }

    fn failed(&self, source: io::Error) -> SinkError {
        SinkError::Failed {
            destination: self.path.display().to_string(),
            source: Arc::new(source),
        }
    }

    fn append(&mut self) -> io::Result<()> {
        let length = self.buffer.len() as u64;
        self.ready()?;
        if self.max_bytes > 0 && self.size > 0 && self.size + length > self.max_bytes {
            self.rotate()?;
        }
        let size = self.size;
        let Self { file, buffer, .. } = self;
        let file = file
            .as_mut()
            .ok_or_else(|| io::Error::other("the file is not open"))?;
        let written = file.write_all(buffer).and_then(|()| file.sync_data());
        if let Err(error) = written {
            // Cut off what was written of it, so that no half line stays. If even that fails, or the disk lied about
            // a sync, the state is unknown: open and look again next time.
            let _ = file.set_len(size);
            self.file = None;
            return Err(error);
        }
        self.size = size + length;
        Ok(())
    }

    /// Has the file open, with whole lines only.
    fn ready(&mut self) -> io::Result<()> {
        if self.file.is_some() {
            return Ok(());
        }
        let mut options = OpenOptions::new();
        let mut file = private(options.create(true).append(true).read(true)).open(&self.path)?;
        let metadata = file.metadata()?;
        self.size = if metadata.is_file() {
            repair(&mut file, metadata.len())?
        } else {
            0
        };
        sync_folder(&self.path)?;
        self.file = Some(file);
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let aside = |number: u32| {
            let mut name = self.path.as_os_str().to_owned();
            name.push(format!(".{number}"));
            PathBuf::from(name)
        };
        for number in (1..self.kept).rev() {
            match std::fs::rename(aside(number), aside(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        if self.kept == 0 {
            std::fs::remove_file(&self.path)?;
        } else {
            std::fs::rename(&self.path, aside(1))?;
        }
        self.file = None;
        self.ready()
    }
}

/// Cuts off what follows the last line end; gives the size that is left. Nothing of a torn line was acknowledged.
fn repair(file: &mut File, length: u64) -> io::Result<u64> {
    let mut end = length;
    let mut chunk = Vec::new();
    while end > 0 {
        let start = end.saturating_sub(REPAIR_CHUNK_BYTES);
        chunk.clear();
        file.seek(SeekFrom::Start(start))?;
        (&mut *file).take(end - start).read_to_end(&mut chunk)?;
        if let Some(position) = chunk.iter().rposition(|byte| *byte == b'\n') {
            end = start + position as u64 + 1;
            break;
        }
        end = start;
    }
    if end < length {
        tracing::warn!(
            cut_bytes = length - end,
            "cut off a log entry that was never acknowledged"
        );
        file.set_len(end)?;
        file.sync_data()?;
    }
    Ok(end)
}

/// Makes the file's name itself durable.
fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        #[cfg(unix)]
        Some(folder) => File::open(folder)?.sync_all(),
        _ => Ok(()),
    }
}
