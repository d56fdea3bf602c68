//go:build opamp_0_6

package main

import (
	"time"

	"github.com/open-telemetry/opamp-go/client"
	"github.com/open-telemetry/opamp-go/protobufs"
)

func setHealth(of client.OpAMPClient, since time.Time) error {
	return of.SetHealth(&protobufs.AgentHealth{Healthy: true, StartTimeUnixNano: uint64(since.UnixNano())})
}
