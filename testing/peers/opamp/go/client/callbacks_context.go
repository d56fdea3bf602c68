//go:build opamp_0_14

package main

import (
	"context"

	"github.com/open-telemetry/opamp-go/client/types"
	"github.com/open-telemetry/opamp-go/protobufs"
)

func callbacks(e *events) types.Callbacks {
	return types.CallbacksStruct{
		OnConnectFunc:       func(context.Context) { e.onConnect() },
		OnConnectFailedFunc: func(_ context.Context, err error) { e.onConnectFailed(err) },
		OnErrorFunc:         func(_ context.Context, answer *protobufs.ServerErrorResponse) { e.onError(answer) },
		OnMessageFunc:       e.onMessage,
		OnOpampConnectionSettingsFunc: func(_ context.Context, settings *protobufs.OpAMPConnectionSettings) error {
			return e.onOffer(settings, nil)
		},
		OnCommandFunc:              func(_ context.Context, command *protobufs.ServerToAgentCommand) error { return e.onCommand(command) },
		SaveRemoteConfigStatusFunc: func(_ context.Context, status *protobufs.RemoteConfigStatus) { e.onConfigStatus(status) },
		GetEffectiveConfigFunc:     func(context.Context) (*protobufs.EffectiveConfig, error) { return effective(e.agent.effective()), nil },
	}
}
