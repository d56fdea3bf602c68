//go:build opamp_0_24

package main

import "github.com/open-telemetry/opamp-go/protobufs"

func effective(files map[string]string) *protobufs.EffectiveConfig {
	list := map[string]*protobufs.AgentConfigObject{}
	for name, text := range files {
		list[name] = &protobufs.AgentConfigObject{Body: []byte(text), ContentType: "text/yaml"}
	}
	return &protobufs.EffectiveConfig{ConfigMap: &protobufs.AgentConfigMap{ConfigMap: list}}
}
