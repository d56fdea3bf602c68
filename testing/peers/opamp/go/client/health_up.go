//go:build opamp_0_4

package main

import (
	"time"

	"github.com/open-telemetry/opamp-go/client"
	"github.com/open-telemetry/opamp-go/protobufs"
)

func setHealth(of client.OpAMPClient, since time.Time) error {
	return of.SetHealth(&protobufs.AgentHealth{Up: true, StartTimeUnixNano: uint64(since.UnixNano())})
}
