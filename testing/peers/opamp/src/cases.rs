//! Which clients there are, what each can do, and so what it has to find.

/// A client as it is run.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// The installed programs that it takes.
    pub(crate) needs: &'static [&'static str],
    pub(crate) kind: Kind,
    /// Whether it takes offered connection settings, and so has to end up on a key of its own.
    pub(crate) adopts: bool,
    /// Whether it is heard regularly without anything having happened.
    pub(crate) is_heard: bool,
    /// Whether it says when it is refused. Some do not even write it to a log.
    pub(crate) tells_refusals: bool,
    /// What it does with remote configurations.
    pub(crate) configuration: Configuration,
}

/// How a client is started.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    /// Ours on opamp-go, with the bits of what a client of its release says it can do.
    OpampGo {
        carrier: Carrier,
        bits: u64,
    },
    Supervisor {
        carrier: Carrier,
    },
    Extension {
        carrier: Carrier,
    },
    Python,
    Node,
    Rust,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Carrier {
    WebSocket,
    Http,
}

/// What a client does with remote configurations.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Configuration {
    /// It takes none.
    None,
    /// It takes them and says so, but not what it runs.
    Reported,
    /// It takes them and tells what it runs.
    Shown,
}

/// Status, remote configuration, effective configuration, connection settings, restart, health, status of configurations.
const BITS_OF_OLD: u64 = 0x1d07;
/// Heartbeats and the status of connection settings too.
const BITS: u64 = 0xbd07;

const fn opamp_go(
    name: &'static str,
    needs: &'static [&'static str],
    carrier: Carrier,
    bits: u64,
) -> Case {
    Case {
        name,
        needs,
        kind: Kind::OpampGo { carrier, bits },
        adopts: true,
        // Over HTTP all releases ask regularly; over WebSocket those that know heartbeats.
        is_heard: matches!(carrier, Carrier::Http) || bits == BITS,
        tells_refusals: true,
        configuration: Configuration::Shown,
    }
}

/// The same by HTTP and a release from before refusals were logged there.
const fn silent_opamp_go(name: &'static str, needs: &'static [&'static str]) -> Case {
    Case {
        tells_refusals: false,
        ..opamp_go(name, needs, Carrier::Http, BITS_OF_OLD)
    }
}

/// All of them.
pub(crate) const ALL: &[Case] = &[
    opamp_go(
        "opamp-go 0.4.0, WebSocket",
        &["opamp-go-0.4.0"],
        Carrier::WebSocket,
        BITS_OF_OLD,
    ),
    silent_opamp_go("opamp-go 0.4.0, HTTP", &["opamp-go-0.4.0"]),
    opamp_go(
        "opamp-go 0.6.0, WebSocket",
        &["opamp-go-0.6.0"],
        Carrier::WebSocket,
        BITS_OF_OLD,
    ),
    silent_opamp_go("opamp-go 0.6.0, HTTP", &["opamp-go-0.6.0"]),
    opamp_go(
        "opamp-go 0.14.0, WebSocket",
        &["opamp-go-0.14.0"],
        Carrier::WebSocket,
        BITS_OF_OLD,
    ),
    opamp_go(
        "opamp-go 0.14.0, HTTP",
        &["opamp-go-0.14.0"],
        Carrier::Http,
        BITS_OF_OLD,
    ),
    opamp_go(
        "opamp-go 0.23.0, WebSocket",
        &["opamp-go-0.23.0"],
        Carrier::WebSocket,
        BITS,
    ),
    opamp_go(
        "opamp-go 0.23.0, HTTP",
        &["opamp-go-0.23.0"],
        Carrier::Http,
        BITS,
    ),
    opamp_go(
        "opamp-go 0.24.0, WebSocket",
        &["opamp-go-0.24.0"],
        Carrier::WebSocket,
        BITS,
    ),
    opamp_go(
        "opamp-go 0.24.0, HTTP",
        &["opamp-go-0.24.0"],
        Carrier::Http,
        BITS,
    ),
    Case {
        name: "supervisor, WebSocket",
        needs: &["supervisor", "collector"],
        kind: Kind::Supervisor {
            carrier: Carrier::WebSocket,
        },
        adopts: true,
        is_heard: true,
        tells_refusals: true,
        configuration: Configuration::Shown,
    },
    Case {
        name: "supervisor, HTTP",
        needs: &["supervisor", "collector"],
        kind: Kind::Supervisor {
            carrier: Carrier::Http,
        },
        adopts: true,
        is_heard: true,
        tells_refusals: true,
        configuration: Configuration::Shown,
    },
    Case {
        name: "collector alone, WebSocket",
        needs: &["collector"],
        kind: Kind::Extension {
            carrier: Carrier::WebSocket,
        },
        adopts: false,
        is_heard: true,
        tells_refusals: true,
        configuration: Configuration::None,
    },
    Case {
        name: "collector alone, HTTP",
        needs: &["collector"],
        kind: Kind::Extension {
            carrier: Carrier::Http,
        },
        adopts: false,
        is_heard: true,
        tells_refusals: true,
        configuration: Configuration::None,
    },
    Case {
        name: "Python",
        needs: &["python"],
        kind: Kind::Python,
        adopts: false,
        is_heard: true,
        tells_refusals: true,
        configuration: Configuration::Shown,
    },
    Case {
        name: "Node",
        needs: &["node"],
        kind: Kind::Node,
        adopts: false,
        is_heard: true,
        tells_refusals: true,
        configuration: Configuration::Reported,
    },
    Case {
        name: "Rust",
        needs: &["rust"],
        kind: Kind::Rust,
        adopts: false,
        is_heard: true,
        tells_refusals: true,
        configuration: Configuration::Shown,
    },
];

impl Case {
    /// For names of folders.
    pub(crate) fn slug(&self) -> String {
        let plain = |sign: char| {
            if sign.is_ascii_alphanumeric() || sign == '.' {
                sign.to_ascii_lowercase()
            } else {
                '-'
            }
        };
        self.name
            .chars()
            .map(plain)
            .collect::<String>()
            .replace("--", "-")
    }

    /// The path below which installed programs are, by the first that it takes.
    pub(crate) fn program(&self) -> &'static str {
        self.needs.first().copied().unwrap_or_default()
    }
}

impl Carrier {
    /// The beginning of a URL over TLS.
    pub(crate) const fn scheme(self) -> &'static str {
        match self {
            Self::WebSocket => "wss",
            Self::Http => "https",
        }
    }
}

impl Kind {
    /// Over what it speaks.
    pub(crate) const fn carrier(self) -> Carrier {
        match self {
            Self::OpampGo { carrier, .. }
            | Self::Supervisor { carrier }
            | Self::Extension { carrier } => carrier,
            Self::Python | Self::Node | Self::Rust => Carrier::Http,
        }
    }
}
