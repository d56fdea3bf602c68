//go:build opamp_0_4 || opamp_0_6 || opamp_0_14

package main

import (
	"crypto/rand"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/open-telemetry/opamp-go/client"
	"github.com/open-telemetry/opamp-go/client/types"
	"github.com/open-telemetry/opamp-go/protobufs"
)

func newUid() string { return ulid.MustNew(ulid.Now(), rand.Reader).String() }

func setUid(settings *types.StartSettings, uid string) error {
	settings.InstanceUid = uid
	return nil
}

func offeredUid(identification *protobufs.AgentIdentification) string {
	return identification.GetNewInstanceUid()
}

func offeredAuthority(settings *protobufs.OpAMPConnectionSettings) string {
	return string(settings.GetCertificate().GetCaPublicKey())
}

// These releases send no heartbeats.
func setHeartbeat(*types.StartSettings, time.Duration) {}

// These releases know no status of connection settings.
func confirmSettings(client.OpAMPClient, []byte) error { return nil }
