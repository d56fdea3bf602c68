//! The HTTP rooms: our own API and Fleet's.

mod fleet;
mod native;

pub use fleet::{FleetHostSoftware, HostTitles, fleet_routes};
pub use native::native_routes;

use muster_http::Problem;
use muster_identity::{Action, Principal, Scope, TeamFilter, TeamId};

use crate::Visible;

/// Whose software somebody sees who asks for that of one team, of no team (0), or of all that is visible.
fn visible(principal: &Principal, team: Option<i64>) -> Result<Visible, Problem> {
    let scope = match team {
        None => Scope::Anywhere,
        Some(0) => Scope::Team(None),
        Some(team) => Scope::Team(Some(TeamId(team))),
    };
    principal.authorize(Action::ReadHosts, scope)?;
    Ok(match team {
        Some(0) => Visible::NoTeam,
        Some(team) => Visible::Teams(vec![TeamId(team)]),
        None => match principal.visible_teams() {
            TeamFilter::All => Visible::All,
            TeamFilter::Only(teams) => Visible::Teams(teams),
        },
    })
}
