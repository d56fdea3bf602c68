//! Logs in files, one per kind, with one thread that writes.
//!
//! Group commit: while one write is being synced to the disk, batches gather; then all of them go out with one write
//! and one sync, and each is acknowledged. A batch that could not be written whole is cut off again, so that a file
//! never holds half a line except after a crash, and what a crash left is cut off when the file is opened: it was never
//! acknowledged, and its agent sends it again.
//!
//! A file that reaches its size is renamed to `.1`, the one before to `.2`, and so on. [`FileSink::reopen`] is for
//! those who rotate from outside.

mod writer;

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::{Batch, LogKind, Sink, SinkError};
use writer::Writer;

/// The file of status logs.
pub const STATUS_FILE: &str = "osquery_status.log";
/// The file of result logs.
pub const RESULT_FILE: &str = "osquery_result.log";
/// How many bytes may wait to be written; a batch beyond them is refused as busy.
pub const MAX_QUEUED_BYTES: usize = 64 * 1024 * 1024;
/// How many bytes are written before the next sync.
pub const MAX_GROUP_BYTES: usize = 16 * 1024 * 1024;
/// How many batches may wait to be written.
const MAX_QUEUED_BATCHES: usize = 16_384;
/// The file that says that the folder is in use.
const LOCK_FILE: &str = ".lock";

/// How large files get and how many are kept.
#[derive(Debug, Clone)]
pub struct FileSinkOptions {
    /// The folder; made when it is not there.
    pub folder: PathBuf,
    /// A file of this many bytes is put aside and a new one begun. 0: never.
    pub max_file_bytes: u64,
    /// How many files that were put aside are kept for each kind.
    pub kept_files: u32,
}

impl FileSinkOptions {
    /// 100 MiB per file and ten files put aside.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            max_file_bytes: 100 * 1024 * 1024,
            kept_files: 10,
        }
    }
}

/// The files could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process writes there.
    #[error("the log folder {folder} is in use by another process")]
    InUse {
        /// Which.
        folder: String,
    },
    /// The folder or a file in it could not be opened.
    #[error("open {path}")]
    Open {
        /// Which.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No thread could be started.
    #[error("start the thread that writes logs")]
    Thread(#[source] io::Error),
}

/// Appends logs to files.
///
/// Dropping it lets the thread write what was handed over and end; [`close`](Self::close) waits for that.
#[derive(Debug)]
pub struct FileSink {
    queue: mpsc::Sender<Work>,
    room: Arc<Semaphore>,
    thread: std::sync::Mutex<Option<std::thread::JoinHandle<()>>>,
}

enum Work {
    Write {
        kind: LogKind,
        lines: Batch,
        done: oneshot::Sender<Result<(), SinkError>>,
        _room: OwnedSemaphorePermit,
    },
    Reopen(oneshot::Sender<Result<(), SinkError>>),
    Close,
}

impl FileSink {
    /// Opens the files, repairs what a crash left, and starts the thread.
    pub fn open(options: FileSinkOptions) -> Result<Self, OpenError> {
        let opened = |path: &Path, source| OpenError::Open {
            path: path.display().to_string(),
            source,
        };
        let folder = &options.folder;
        create_folder(folder).map_err(|source| opened(folder, source))?;
        let lock_path = folder.join(LOCK_FILE);
        let lock = private(OpenOptions::new().create(true).truncate(false).write(true))
            .open(&lock_path)
            .map_err(|source| opened(&lock_path, source))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                return Err(OpenError::InUse {
                    folder: folder.display().to_string(),
                });
            }
            Err(std::fs::TryLockError::Error(source)) => return Err(opened(&lock_path, source)),
        }
        let mut files = Vec::with_capacity(2);
        for name in [STATUS_FILE, RESULT_FILE] {
            let path = folder.join(name);
            let file = Writer::open(&path, options.max_file_bytes, options.kept_files);
            files.push(file.map_err(|source| opened(&path, source))?);
        }
        let (queue, work) = mpsc::channel(MAX_QUEUED_BATCHES);
        let thread = std::thread::Builder::new()
            .name("log-writer".to_owned())
            .spawn(move || run(work, files, &lock))
            .map_err(OpenError::Thread)?;
        Ok(Self {
            queue,
            room: Arc::new(Semaphore::new(MAX_QUEUED_BYTES)),
            thread: std::sync::Mutex::new(Some(thread)),
        })
    }

    /// Closes the files and opens those that now have their names: after somebody else renamed them.
    pub async fn reopen(&self) -> Result<(), SinkError> {
        let (done, answer) = oneshot::channel();
        self.queue
            .send(Work::Reopen(done))
            .await
            .map_err(|_| SinkError::Busy)?;
        answer.await.map_err(|_| SinkError::Busy)?
    }

    /// How many bytes wait to be written, of [`MAX_QUEUED_BYTES`].
    pub fn waiting_bytes(&self) -> usize {
        MAX_QUEUED_BYTES.saturating_sub(self.room.available_permits())
    }

    /// Takes no more, and waits until all that was handed over is written.
    pub async fn close(&self) {
        if self.queue.send(Work::Close).await.is_err() {
            return;
        }
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            // Joining waits for the disk: not on a thread that serves connections.
            let joined = tokio::task::spawn_blocking(move || thread.join()).await;
            if !matches!(joined, Ok(Ok(()))) {
                tracing::error!("the thread that writes logs ended badly");
            }
        }
    }
}

#[async_trait]
impl Sink for FileSink {
    async fn write(&self, kind: LogKind, lines: Batch) -> Result<(), SinkError> {
        if lines.is_empty() {
            return Ok(());
        }
        let bytes = u32::try_from(lines.bytes()).map_err(|_| SinkError::Busy)?;
        let room = Arc::clone(&self.room)
            .try_acquire_many_owned(bytes)
            .map_err(|_| SinkError::Busy)?;
        let (done, answer) = oneshot::channel();
        let work = Work::Write {
            kind,
            lines,
            done,
            _room: room,
        };
        self.queue.try_send(work).map_err(|_| SinkError::Busy)?;
        answer.await.map_err(|_| SinkError::Busy)?
    }
}

/// The thread: takes what waits, writes it, syncs, answers. Holds the folder's lock while it runs.
fn run(mut work: mpsc::Receiver<Work>, mut files: Vec<Writer>, _lock: &File) {
    let mut closing = false;
    while !closing {
        let Some(first) = work.blocking_recv() else {
            return;
        };
        let mut group: [Vec<(Batch, oneshot::Sender<_>)>; 2] = [Vec::new(), Vec::new()];
        let mut rooms = Vec::new();
        let mut reopens = Vec::new();
        let mut bytes = 0;
        let mut next = Some(first);
        while let Some(item) = next.take() {
            match item {
                Work::Write {
                    kind,
                    lines,
                    done,
                    _room: room,
                } => {
                    bytes += lines.bytes();
                    rooms.push(room);
                    group[usize::from(kind == LogKind::Result)].push((lines, done));
                }
                Work::Reopen(done) => reopens.push(done),
                Work::Close => {
                    // What came before it is in the group or behind it in the queue, and nothing comes after.
                    work.close();
                    closing = true;
                }
            }
            if bytes < MAX_GROUP_BYTES {
                next = work.try_recv().ok();
            }
        }
        for (file, batches) in files.iter_mut().zip(group) {
            if batches.is_empty() {
                continue;
            }
            let result = file.write(batches.iter().flat_map(|(lines, _)| lines.lines()));
            for (_, done) in batches {
                // Nobody waits any more: the agent's connection is gone. It will send the batch again.
                let _ = done.send(result.clone());
            }
        }
        drop(rooms);
        for done in reopens {
            let result = files.iter_mut().try_for_each(Writer::reopen);
            let _ = done.send(result);
        }
        if closing {
            closing = work.is_empty();
        }
    }
}

fn create_folder(folder: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

/// A file made with these options is readable by its owner only: logs tell much about people.
fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    options
}
