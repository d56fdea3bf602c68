//go:build opamp_0_4 || opamp_0_6 || opamp_0_14 || opamp_0_23

package main

import "github.com/open-telemetry/opamp-go/protobufs"

func effective(files map[string]string) *protobufs.EffectiveConfig {
	list := map[string]*protobufs.AgentConfigFile{}
	for name, text := range files {
		list[name] = &protobufs.AgentConfigFile{Body: []byte(text), ContentType: "text/yaml"}
	}
	return &protobufs.EffectiveConfig{ConfigMap: &protobufs.AgentConfigMap{ConfigMap: list}}
}
