//go:build opamp_0_23 || opamp_0_24

package main

import (
	"time"

	"github.com/google/uuid"
	"github.com/open-telemetry/opamp-go/client/types"
	"github.com/open-telemetry/opamp-go/protobufs"
)

func newUid() string {
	uid, err := uuid.NewV7()
	if err != nil {
		return uuid.NewString()
	}
	return uid.String()
}

func setUid(settings *types.StartSettings, uid string) error {
	parsed, err := uuid.Parse(uid)
	settings.InstanceUid = types.InstanceUid(parsed)
	return err
}

func offeredUid(identification *protobufs.AgentIdentification) string {
	uid, err := uuid.FromBytes(identification.GetNewInstanceUid())
	if err != nil {
		say("error", fields{"error": err.Error()})
	}
	return uid.String()
}

func offeredAuthority(settings *protobufs.OpAMPConnectionSettings) string {
	return string(settings.GetCertificate().GetCaCert())
}

func setHeartbeat(settings *types.StartSettings, interval time.Duration) {
	if interval > 0 {
		settings.HeartbeatInterval = &interval
	}
}
