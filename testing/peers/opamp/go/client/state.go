package main

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
)

// connection is where the server is, what to show it, and whom to trust.
type connection struct {
	URL     string            `json:"url"`
	Headers map[string]string `json:"headers"`
	// Authority is PEM; empty means what the system trusts.
	Authority string `json:"authority,omitempty"`
}

// state is what an agent keeps over restarts.
type state struct {
	Uid        string     `json:"uid"`
	Connection connection `json:"connection"`
	// What was last received as a configuration, and what became of it.
	ConfigHash   []byte            `json:"config_hash,omitempty"`
	ConfigStatus int32             `json:"config_status,omitempty"`
	Config       map[string]string `json:"config,omitempty"`
}

// load reads a state; nil when there is none.
func load(path string) (*state, error) {
	if path == "" {
		return nil, nil
	}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	kept := &state{}
	return kept, json.Unmarshal(text, kept)
}

// save replaces the state whole, readable for its owner alone.
func (s *state) save(path string) error {
	if path == "" {
		return nil
	}
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", text, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
