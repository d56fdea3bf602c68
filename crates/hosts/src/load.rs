//! What waits when there is too much to do: logs first, then details; check-ins, live queries and enrollments never.
//!
//! Two things tell that there is too much. Requests with logs that are under way pile up when their destination is slow. And
//! a timer of this process comes late when there is more work than processors. Agents keep logs that are refused and send
//! them again; details are not asked for, and are due at a later check-in.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// How many requests with logs are under way at a time.
const MOST_LOGS: usize = 512;
/// When the timer comes so late, details are not asked for.
const LATE_FOR_DETAILS: Duration = Duration::from_millis(250);
/// When the timer comes so late, logs are refused.
const LATE_FOR_LOGS: Duration = Duration::from_millis(500);
/// How often the timer ticks.
const TICK: Duration = Duration::from_millis(50);
/// Agents whose logs were refused come again after so long, in seconds.
pub(crate) const LOGS_RETRY_SECONDS: u32 = 30;

#[derive(Debug, Default)]
struct Shared {
    logs: AtomicUsize,
    /// How late the timer comes, in microseconds; falls slowly, so that one tick in time does not open the gates.
    late: AtomicU64,
    sheds_logs: AtomicBool,
}

/// How much there is to do. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Load(Arc<Shared>);

/// A request with logs that is under way.
#[derive(Debug)]
pub(crate) struct LogTurn(Arc<Shared>);

impl Drop for LogTurn {
    fn drop(&mut self) {
        self.0.logs.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Load {
    fn late(&self) -> Duration {
        Duration::from_micros(self.0.late.load(Ordering::Relaxed))
    }

    /// Whether logs would be taken now: asked before anything of them is read.
    pub(crate) fn admits_logs(&self) -> bool {
        !self.is_too_much(self.0.logs.load(Ordering::Relaxed))
    }

    /// Whether logs are taken now; held until they are kept. Only those that came whole, of an agent that is known, take
    /// room: others could hold it for as long as they like.
    pub(crate) fn admit_logs(&self) -> Option<LogTurn> {
        let under_way = self.0.logs.fetch_add(1, Ordering::Relaxed);
        let turn = LogTurn(Arc::clone(&self.0));
        (!self.is_too_much(under_way)).then_some(turn)
    }

    fn is_too_much(&self, under_way: usize) -> bool {
        let is_too_much = under_way >= MOST_LOGS || self.late() >= LATE_FOR_LOGS;
        if is_too_much != self.0.sheds_logs.swap(is_too_much, Ordering::Relaxed) && is_too_much {
            tracing::warn!(
                logs.under_way = under_way,
                late = ?self.late(),
                "there is too much to do: agents are told to send their logs later"
            );
        }
        if is_too_much {
            metrics::counter!("muster_put_off_total", "class" => "logs").increment(1);
        }
        is_too_much
    }

    /// Whether hosts are asked for details now.
    pub(crate) fn admits_details(&self) -> bool {
        let admits = self.late() < LATE_FOR_DETAILS;
        if !admits {
            metrics::counter!("muster_put_off_total", "class" => "details").increment(1);
        }
        admits
    }

    /// Notes how late a timer came.
    fn note(&self, late: Duration) {
        let late = u64::try_from(late.as_micros()).unwrap_or(u64::MAX);
        let before = self.0.late.load(Ordering::Relaxed);
        let now = late.max(before / 4 * 3);
        self.0.late.store(now, Ordering::Relaxed);
    }

    /// Watches the timer until `stop`.
    pub(crate) async fn run(&self, stop: CancellationToken) {
        let mut timer = tokio::time::interval(TICK);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for class in ["logs", "details"] {
            metrics::counter!("muster_put_off_total", "class" => class).increment(0);
        }
        let mut due = Instant::now();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = timer.tick() => {}
            }
            let now = Instant::now();
            self.note(now.saturating_duration_since(due));
            metrics::gauge!("muster_timer_late_seconds").set(self.late().as_secs_f64());
            due = now + TICK;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_so_many_logs_are_under_way_and_room_comes_back() {
        let load = Load::default();
        let turns: Vec<_> = (0..MOST_LOGS).map(|_| load.admit_logs().unwrap()).collect();
        assert!(load.admit_logs().is_none() && load.admit_logs().is_none());
        assert!(load.admits_details());
        drop(turns);
        assert!(load.admit_logs().is_some());
    }

    #[test]
    fn a_late_timer_puts_off_details_first_and_logs_then() {
        let load = Load::default();
        load.note(Duration::from_millis(300));
        assert!(!load.admits_details() && load.admit_logs().is_some());
        load.note(Duration::from_millis(600));
        assert!(!load.admits_details() && load.admit_logs().is_none());
        // One tick in time is not enough; a few are.
        load.note(Duration::ZERO);
        assert!(!load.admits_details());
        for _ in 0..5 {
            load.note(Duration::ZERO);
        }
        assert!(load.admits_details() && load.admit_logs().is_some());
    }

    #[tokio::test]
    async fn a_process_without_a_free_thread_is_late() {
        let load = Load::default();
        let stop = CancellationToken::new();
        let watching = {
            let (load, stop) = (load.clone(), stop.clone());
            tokio::spawn(async move { load.run(stop).await })
        };
        while load.late() < LATE_FOR_LOGS {
            // On the only thread: nothing else runs meanwhile.
            std::thread::sleep(LATE_FOR_LOGS + TICK);
            tokio::task::yield_now().await;
        }
        assert!(load.admit_logs().is_none());
        while load.admit_logs().is_none() {
            tokio::task::yield_now().await;
        }
        stop.cancel();
        watching.await.unwrap();
    }
}
