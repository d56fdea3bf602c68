//! Units of work of many, written together: when all come at once, each commit waits for the disk.
//!
//! Whoever has something to keep puts it into a queue and waits. One task takes what gathered while the former batch was
//! written, and writes it in one unit of work. When anything of it cannot be kept, nothing of the batch is, and each part is
//! written by itself: so nobody pays for another's conflict. When the database is away all that waits is told so at once: one
//! wait for it is enough.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::StoreError;

/// How many jobs are written together.
const MAX_BATCH_JOBS: usize = 64;

/// What writes jobs. It is cloned for the task that does, so it should be cheap to clone.
pub trait Together: Clone + Send + Sync + 'static {
    /// What is to be kept for one.
    type Job: Send + Sync + 'static;
    /// What came of it.
    type Done: Send + 'static;
    /// The order in which jobs of a batch are written, so that two servers rarely wait for each other.
    type Order: Ord;
    /// What is tried, for errors.
    const ATTEMPT: &'static str;

    /// Where jobs wait.
    fn group(&self) -> &Group<Self::Job, Self::Done>;

    /// Where a job stands in its batch.
    fn order(&self, job: &Self::Job) -> Self::Order;

    /// Writes all in one unit of work, and gives what came of each; none when something of it has to be written by itself. An
    /// error when no unit of work could begin.
    fn together(
        &self,
        jobs: &[Self::Job],
    ) -> impl Future<Output = Result<Option<Vec<Self::Done>>, StoreError>> + Send;

    /// Writes one in a unit of work of its own.
    fn alone(&self, job: &Self::Job)
    -> impl Future<Output = Result<Self::Done, StoreError>> + Send;
}

struct Waiter<J, D> {
    job: J,
    reply: oneshot::Sender<Result<D, StoreError>>,
}

/// What waits to be written.
pub struct Group<J, D>(Mutex<Waiting<J, D>>);

struct Waiting<J, D> {
    jobs: Vec<Waiter<J, D>>,
    /// Whether somebody writes.
    is_written: bool,
}

impl<J, D> Default for Group<J, D> {
    fn default() -> Self {
        Self(Mutex::new(Waiting {
            jobs: Vec::new(),
            is_written: false,
        }))
    }
}

impl<J, D> Group<J, D> {
    fn lock(&self) -> MutexGuard<'_, Waiting<J, D>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What happens when the writer ends before its time: those that wait are let go, and the next one writes.
struct Writing<'a, J, D>(&'a Group<J, D>);

impl<J, D> Drop for Writing<'_, J, D> {
    fn drop(&mut self) {
        let mut waiting = self.0.lock();
        waiting.is_written = false;
        waiting.jobs.clear();
    }
}

/// Keeps something together with what others have to keep at the same time. It is kept also when whoever waits for it goes
/// away.
///
/// # Errors
///
/// Why it is not kept; of the kind that another's failure was when it was not even tried.
pub async fn keep<W: Together>(writer: &W, job: W::Job) -> Result<W::Done, StoreError> {
    let (reply, written) = oneshot::channel();
    let begins = {
        let mut waiting = writer.group().lock();
        waiting.jobs.push(Waiter { job, reply });
        !std::mem::replace(&mut waiting.is_written, true)
    };
    if begins {
        tokio::spawn(write_all(writer.clone()));
    }
    // The writer panicked, which is told where it happened.
    let lost = || StoreError::corrupt(W::ATTEMPT, "it was lost with the work of others");
    written.await.unwrap_or_else(|_| Err(lost()))
}

async fn write_all<W: Together>(writer: W) {
    loop {
        let writing = Writing(writer.group());
        let batch: Vec<_> = {
            let mut waiting = writer.group().lock();
            let count = waiting.jobs.len().min(MAX_BATCH_JOBS);
            if count == 0 {
                // Whoever comes from here on finds that nobody writes.
                waiting.is_written = false;
                std::mem::forget(writing);
                return;
            }
            waiting.jobs.drain(..count).collect()
        };
        if let Err(error) = write_batch(&writer, batch).await {
            let waiting = std::mem::take(&mut writer.group().lock().jobs);
            for waiter in waiting {
                let _ = waiter.reply.send(Err(error.for_others(W::ATTEMPT)));
            }
        }
        std::mem::forget(writing);
    }
}

/// An error when the database is away: then nothing else that waits will fare better.
async fn write_batch<W: Together>(
    writer: &W,
    mut batch: Vec<Waiter<W::Job, W::Done>>,
) -> Result<(), StoreError> {
    batch.sort_by_key(|waiter| writer.order(&waiter.job));
    let (jobs, replies): (Vec<_>, Vec<_>) = batch
        .into_iter()
        .map(|waiter| (waiter.job, waiter.reply))
        .unzip();
    if jobs.len() > 1 {
        match writer.together(&jobs).await {
            Ok(Some(done)) => {
                for (reply, done) in replies.into_iter().zip(done) {
                    // Whoever went away does not need it.
                    let _ = reply.send(Ok(done));
                }
                return Ok(());
            }
            Ok(None) => {}
            Err(error) => {
                for reply in replies {
                    let _ = reply.send(Err(error.for_others(W::ATTEMPT)));
                }
                return Err(error);
            }
        }
    }
    let mut away: Option<StoreError> = None;
    for (job, reply) in jobs.iter().zip(replies) {
        let done = match &away {
            Some(error) => Err(error.for_others(W::ATTEMPT)),
            None => writer.alone(job).await,
        };
        if let Err(error) = &done
            && error.is_unavailable()
            && away.is_none()
        {
            away = Some(error.for_others(W::ATTEMPT));
        }
        let _ = reply.send(done);
    }
    away.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use tokio::sync::Semaphore;

    use super::*;

    /// What the writer is to do with a job.
    #[derive(Clone, Copy, PartialEq)]
    enum Job {
        Keep(u32),
        /// It conflicts with what is kept.
        Conflict,
        Panic,
    }

    struct Shared {
        group: Group<Job, u32>,
        /// Lets units of work go on.
        turns: Semaphore,
        is_away: AtomicBool,
        begun: AtomicUsize,
    }

    #[derive(Clone)]
    struct Writer(Arc<Shared>);

    impl Writer {
        fn new(turns: usize) -> Self {
            Self(Arc::new(Shared {
                group: Group::default(),
                turns: Semaphore::new(turns),
                is_away: AtomicBool::new(false),
                begun: AtomicUsize::new(0),
            }))
        }

        fn begun(&self) -> usize {
            self.0.begun.load(Ordering::SeqCst)
        }

        async fn begin(&self) -> Result<(), StoreError> {
            self.0.begun.fetch_add(1, Ordering::SeqCst);
            self.0.turns.acquire().await.unwrap().forget();
            if self.0.is_away.load(Ordering::SeqCst) {
                return Err(StoreError::away("begin", sqlx::Error::PoolTimedOut));
            }
            Ok(())
        }

        fn wait_for(&self, count: u32) -> Vec<tokio::task::JoinHandle<Result<u32, StoreError>>> {
            let jobs = (0..count).rev().map(Job::Keep);
            jobs.map(|job| self.spawn(job)).collect()
        }

        fn spawn(&self, job: Job) -> tokio::task::JoinHandle<Result<u32, StoreError>> {
            let writer = self.clone();
            tokio::spawn(async move { keep(&writer, job).await })
        }
    }

    impl Together for Writer {
        type Job = Job;
        type Done = u32;
        type Order = u32;
        const ATTEMPT: &'static str = "keep";

        fn group(&self) -> &Group<Job, u32> {
            &self.0.group
        }

        fn order(&self, job: &Job) -> u32 {
            match job {
                Job::Keep(number) => *number,
                Job::Conflict | Job::Panic => 0,
            }
        }

        async fn together(&self, jobs: &[Job]) -> Result<Option<Vec<u32>>, StoreError> {
            self.begin().await?;
            assert!(jobs.is_sorted_by_key(|job| self.order(job)));
            assert!(!jobs.contains(&Job::Panic));
            let numbers = jobs.iter().map(|job| match job {
                Job::Keep(number) => Some(*number),
                Job::Conflict | Job::Panic => None,
            });
            Ok(numbers.collect())
        }

        async fn alone(&self, job: &Job) -> Result<u32, StoreError> {
            self.begin().await?;
            match job {
                Job::Keep(number) => Ok(*number),
                Job::Conflict => Err(StoreError::corrupt("keep", "it conflicts")),
                Job::Panic => panic!("as wanted"),
            }
        }
    }

    /// Lets everybody else go on until they wait.
    async fn settle() {
        for _ in 0..1_000 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn what_gathers_while_one_is_written_is_written_together() {
        let writer = Writer::new(0);
        let first = writer.spawn(Job::Keep(7));
        settle().await;
        let others = writer.wait_for(100);
        settle().await;
        writer.0.turns.add_permits(3);
        assert_eq!(first.await.unwrap().unwrap(), 7);
        for (other, number) in others.into_iter().zip((0..100).rev()) {
            assert_eq!(other.await.unwrap().unwrap(), number);
        }
        assert_eq!(writer.begun(), 3, "one, 64 and 36");
    }

    #[tokio::test]
    async fn nobody_pays_for_anothers_conflict() {
        let writer = Writer::new(0);
        let first = writer.spawn(Job::Keep(7));
        settle().await;
        let bad = writer.spawn(Job::Conflict);
        let others = writer.wait_for(10);
        settle().await;
        writer.0.turns.add_permits(100);
        first.await.unwrap().unwrap();
        assert!(bad.await.unwrap().is_err());
        for (other, number) in others.into_iter().zip((0..10).rev()) {
            assert_eq!(other.await.unwrap().unwrap(), number);
        }
    }

    #[tokio::test]
    async fn while_the_database_is_away_all_are_told_after_one_wait_and_later_ones_are_written() {
        for count in [1, 100] {
            let writer = Writer::new(0);
            writer.0.is_away.store(true, Ordering::SeqCst);
            let first = writer.spawn(Job::Keep(7));
            settle().await;
            let others = writer.wait_for(count);
            settle().await;
            writer.0.turns.add_permits(1);
            for told in std::iter::once(first).chain(others) {
                assert!(told.await.unwrap().unwrap_err().is_unavailable());
            }
            assert_eq!(writer.begun(), 1);
            writer.0.is_away.store(false, Ordering::SeqCst);
            writer.0.turns.add_permits(1);
            assert_eq!(keep(&writer, Job::Keep(8)).await.unwrap(), 8);
        }
    }

    #[tokio::test]
    async fn whoever_goes_away_has_it_kept_and_a_panic_stops_nobody_for_good() {
        let writer = Writer::new(0);
        let first = writer.spawn(Job::Keep(7));
        settle().await;
        first.abort();
        writer.0.turns.add_permits(1);
        settle().await;
        assert_eq!(writer.0.turns.available_permits(), 0, "it was written");
        let panics = writer.spawn(Job::Panic);
        settle().await;
        let others = writer.wait_for(100);
        settle().await;
        writer.0.turns.add_permits(10);
        for told in std::iter::once(panics).chain(others) {
            assert!(!told.await.unwrap().unwrap_err().is_unavailable());
        }
        assert_eq!(keep(&writer, Job::Keep(8)).await.unwrap(), 8);
    }
}
