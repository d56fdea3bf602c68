//go:build opamp_0_4 || opamp_0_6

package main

import (
	"context"
	"fmt"

	"github.com/open-telemetry/opamp-go/client/types"
	"github.com/open-telemetry/opamp-go/protobufs"
)

// logger prints what the library complains about: over HTTP it tells refusals to nobody else.
type logger struct{}

func (logger) Debugf(string, ...any) {}

func (logger) Errorf(format string, values ...any) {
	say("log", fields{"text": fmt.Sprintf(format, values...)})
}

func callbacks(e *events) types.Callbacks {
	return types.CallbacksStruct{
		OnConnectFunc:       e.onConnect,
		OnConnectFailedFunc: e.onConnectFailed,
		OnErrorFunc:         e.onError,
		OnMessageFunc:       e.onMessage,
		OnOpampConnectionSettingsFunc: func(_ context.Context, settings *protobufs.OpAMPConnectionSettings) error {
			return e.onOffer(settings, nil)
		},
		OnCommandFunc:              e.onCommand,
		SaveRemoteConfigStatusFunc: func(_ context.Context, status *protobufs.RemoteConfigStatus) { e.onConfigStatus(status) },
		GetEffectiveConfigFunc:     func(context.Context) (*protobufs.EffectiveConfig, error) { return effective(e.agent.effective()), nil },
	}
}
