//go:build opamp_0_14 || opamp_0_23 || opamp_0_24

package main

import (
	"time"

	"github.com/open-telemetry/opamp-go/client"
	"github.com/open-telemetry/opamp-go/protobufs"
)

func setHealth(of client.OpAMPClient, since time.Time) error {
	return of.SetHealth(&protobufs.ComponentHealth{
		Healthy:           true,
		StartTimeUnixNano: uint64(since.UnixNano()),
		Status:            "StatusOK",
	})
}
