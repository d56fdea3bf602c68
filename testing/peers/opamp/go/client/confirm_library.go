//go:build opamp_0_23

package main

import "github.com/open-telemetry/opamp-go/client"

// The library itself says APPLIED as soon as the callback has taken an offer.
func confirmSettings(client.OpAMPClient, []byte) error { return nil }
