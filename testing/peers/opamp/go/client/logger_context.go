//go:build opamp_0_14 || opamp_0_23 || opamp_0_24

package main

import (
	"context"
	"fmt"
)

// logger prints what the library complains about: over HTTP it tells refusals to nobody else.
type logger struct{}

func (logger) Debugf(context.Context, string, ...any) {}

func (logger) Errorf(_ context.Context, format string, values ...any) {
	say("log", fields{"text": fmt.Sprintf(format, values...)})
}
