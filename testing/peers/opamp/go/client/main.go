// An agent on opamp-go, for tests: it connects to an OpAMP server, does with offers and configurations what its flags
// say, and prints one JSON line for everything that happens to it. Secrets are printed as fingerprints.
//
// One source for several releases of opamp-go: what differs between them stands in files with build tags.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"time"
)

const module = "github.com/open-telemetry/opamp-go"

// pairs is a flag that may be given several times, each time with a name and a value.
type pairs struct {
	separator string
	values    map[string]string
}

func (p *pairs) String() string { return fmt.Sprint(p.values) }

func (p *pairs) Set(text string) error {
	name, value, found := strings.Cut(text, p.separator)
	if !found {
		return fmt.Errorf("write NAME%sVALUE", p.separator)
	}
	p.values[strings.TrimSpace(name)] = strings.TrimSpace(value)
	return nil
}

// options is what the command line says.
type options struct {
	first        connection
	stateFile    string
	uid          string
	capabilities uint64
	identifying  map[string]string
	other        map[string]string
	onOffer      string
	onConfig     string
	heartbeat    time.Duration
	poll         time.Duration
	gzip         bool
}

func parse() (options, error) {
	headers := pairs{":", map[string]string{}}
	identifying := pairs{"=", map[string]string{}}
	other := pairs{"=", map[string]string{}}
	var o options
	var authority string
	flag.StringVar(&o.first.URL, "url", "", "where the server is: ws, wss, http or https")
	flag.Var(&headers, "header", "a header of requests, as `NAME: VALUE`; may be given several times")
	flag.StringVar(&authority, "ca", "", "a `FILE` with the only authorities that are trusted, in PEM")
	flag.StringVar(&o.stateFile, "state", "", "a `FILE` that keeps uid, connection and configuration over restarts; it wins over the flags")
	flag.StringVar(&o.uid, "uid", "", "the instance uid: 26 characters before 0.15, a UUID since [default: a new one]")
	flag.Uint64Var(&o.capabilities, "capabilities", 0xbd07, "what the agent says it can do, as `BITS`")
	flag.Var(&identifying, "identifying", "an identifying attribute, as `NAME=VALUE`; may be given several times")
	flag.Var(&other, "other", "another attribute, as `NAME=VALUE`; may be given several times")
	flag.StringVar(&o.onOffer, "on-offer", "adopt", "what to do with offered connection settings: adopt, ignore or reject")
	flag.StringVar(&o.onConfig, "on-config", "apply", "what to do with a remote configuration: apply, fail or ignore")
	flag.DurationVar(&o.heartbeat, "heartbeat", 0, "how often to send a heartbeat, where the release can [default: its own]")
	flag.DurationVar(&o.poll, "poll", 0, "how often to ask over HTTP, where the release lets one say [default: its own]")
	flag.BoolVar(&o.gzip, "gzip", false, "compress what is sent")
	flag.Parse()
	if flag.NArg() > 0 {
		return o, fmt.Errorf("unknown argument %q", flag.Arg(0))
	}
	if o.first.URL == "" {
		return o, errors.New("-url is missing")
	}
	if o.onOffer != "adopt" && o.onOffer != "ignore" && o.onOffer != "reject" {
		return o, fmt.Errorf("-on-offer is adopt, ignore or reject, not %q", o.onOffer)
	}
	if o.onConfig != "apply" && o.onConfig != "fail" && o.onConfig != "ignore" {
		return o, fmt.Errorf("-on-config is apply, fail or ignore, not %q", o.onConfig)
	}
	if authority != "" {
		pem, err := os.ReadFile(authority)
		if err != nil {
			return o, err
		}
		o.first.Authority = string(pem)
	}
	o.first.Headers = headers.values
	o.identifying, o.other = identifying.values, other.values
	return o, nil
}

// release is the version of opamp-go in this program.
func release() string {
	info, known := debug.ReadBuildInfo()
	if known {
		for _, dependency := range info.Deps {
			if dependency.Path == module {
				return dependency.Version
			}
		}
	}
	return "unknown"
}

func main() {
	o, err := parse()
	if err == nil {
		var a *agent
		if a, err = newAgent(o); err == nil {
			ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			err = a.run(ctx)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}
