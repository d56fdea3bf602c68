//! The SQL of configurations, one module per resource.

pub(crate) mod assignment;
pub(crate) mod document;
pub(crate) mod state;

use muster_identity::TeamId;
use muster_store::{StoreError, Value};

/// A team in a column that is part of a unique rule: 0 is none.
fn team_key(team: Option<TeamId>) -> i64 {
    team.map_or(0, |team| team.0)
}

fn team_of(key: i64) -> Option<TeamId> {
    Some(key).filter(|key| *key != 0).map(TeamId)
}

/// `$2, $3` for a list of two that begins at the second parameter.
fn numbered(first: usize, count: usize) -> String {
    let places: Vec<String> = (first..first + count)
        .map(|number| format!("${number}"))
        .collect();
    places.join(", ")
}

fn no_id(action: &'static str) -> StoreError {
    StoreError::corrupt(action, "no id came back")
}

fn integers(list: impl IntoIterator<Item = i64>) -> Vec<Value> {
    list.into_iter().map(Value::from).collect()
}

#[cfg(test)]
mod tests {
    use muster_store::testing::{on_both_databases, prepare_all};

    use super::{assignment, document, state};

    on_both_databases! {
        async fn every_statement_about_configurations_is_understood(db: TestDatabase) {
            db.migrate(&muster_store::Schema::default().with("collectors", crate::MIGRATIONS)).await;
            for statements in [assignment::ALL, document::ALL, state::ALL] {
                prepare_all(&db, statements).await;
            }
        }
    }
}
