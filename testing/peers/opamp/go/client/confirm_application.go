//go:build opamp_0_24

package main

import (
	"github.com/open-telemetry/opamp-go/client"
	"github.com/open-telemetry/opamp-go/protobufs"
)

func confirmSettings(of client.OpAMPClient, hash []byte) error {
	if len(hash) == 0 {
		return nil
	}
	return of.SetConnectionSettingsStatus(&protobufs.ConnectionSettingsStatus{
		LastConnectionSettingsHash: hash,
		Status:                     protobufs.ConnectionSettingsStatuses_ConnectionSettingsStatuses_APPLIED,
	})
}
