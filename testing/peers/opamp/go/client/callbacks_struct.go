//go:build opamp_0_23 || opamp_0_24

package main

import (
	"context"
	"sync"

	"github.com/open-telemetry/opamp-go/client/types"
	"github.com/open-telemetry/opamp-go/protobufs"
)

func callbacks(e *events) types.Callbacks {
	// The hash that the status of settings needs comes by the message that is told just before them.
	var mutex sync.Mutex
	var hash []byte
	return types.Callbacks{
		OnConnect:       func(context.Context) { e.onConnect() },
		OnConnectFailed: func(_ context.Context, err error) { e.onConnectFailed(err) },
		OnError:         func(_ context.Context, answer *protobufs.ServerErrorResponse) { e.onError(answer) },
		OnMessage: func(ctx context.Context, message *types.MessageData) {
			if len(message.OfferedConnectionsSettingsHash) > 0 {
				mutex.Lock()
				hash = message.OfferedConnectionsSettingsHash
				mutex.Unlock()
			}
			e.onMessage(ctx, message)
		},
		OnOpampConnectionSettings: func(_ context.Context, settings *protobufs.OpAMPConnectionSettings) error {
			mutex.Lock()
			defer mutex.Unlock()
			return e.onOffer(settings, hash)
		},
		OnCommand:              func(_ context.Context, command *protobufs.ServerToAgentCommand) error { return e.onCommand(command) },
		SaveRemoteConfigStatus: func(_ context.Context, status *protobufs.RemoteConfigStatus) { e.onConfigStatus(status) },
		GetEffectiveConfig:     func(context.Context) (*protobufs.EffectiveConfig, error) { return effective(e.agent.effective()), nil },
	}
}
