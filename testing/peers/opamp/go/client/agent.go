package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/open-telemetry/opamp-go/client"
	"github.com/open-telemetry/opamp-go/client/types"
	"github.com/open-telemetry/opamp-go/protobufs"
)

const (
	// How long an offered connection is tried before the one before it is taken up again.
	trialTime = 30 * time.Second
	// How long a client may take to end.
	stopTime = 5 * time.Second
)

// Numbers of RemoteConfigStatuses, whose names changed between releases.
const (
	configApplied  = 1
	configApplying = 2
	configFailed   = 3
)

// agent is one OpAMP agent, whose client changes when its connection does.
type agent struct {
	options options
	begun   time.Time
	// What `run` has to do next; callbacks of a client must not stop that client themselves.
	todo chan func(context.Context)

	mutex  sync.Mutex
	state  state
	client client.OpAMPClient
	// Told when the client that runs now has connected.
	connected chan struct{}
}

func newAgent(o options) (*agent, error) {
	a := &agent{options: o, begun: time.Now(), todo: make(chan func(context.Context), 16)}
	kept, err := load(o.stateFile)
	if err != nil {
		return nil, err
	}
	if kept != nil {
		a.state = *kept
		return a, nil
	}
	a.state = state{Uid: o.uid, Connection: o.first}
	if a.state.Uid == "" {
		a.state.Uid = newUid()
	}
	return a, nil
}

// run is the agent until the context ends.
func (a *agent) run(ctx context.Context) error {
	say("started", fields{"release": release(), "uid": a.state.Uid})
	if err := a.start(ctx, a.state.Connection); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			a.stop()
			say("stopped", nil)
			return nil
		case do := <-a.todo:
			do(ctx)
		}
	}
}

// start makes a client for a connection and starts it.
func (a *agent) start(ctx context.Context, to connection) error {
	address, err := url.Parse(to.URL)
	if err != nil {
		return err
	}
	over := "websocket"
	var made client.OpAMPClient
	switch address.Scheme {
	case "ws", "wss":
		made = client.NewWebSocket(logger{})
	case "http", "https":
		over = "http"
		made = client.NewHTTP(logger{})
	default:
		return fmt.Errorf("%s: begin with ws, wss, http or https", to.URL)
	}
	if polls, can := made.(interface{ SetPollingInterval(time.Duration) }); can && a.options.poll > 0 {
		polls.SetPollingInterval(a.options.poll)
	}
	settings := types.StartSettings{
		OpAMPServerURL:    to.URL,
		Header:            http.Header{},
		EnableCompression: a.options.gzip,
		Capabilities:      protobufs.AgentCapabilities(a.options.capabilities),
	}
	for name, value := range to.Headers {
		settings.Header.Set(name, value)
	}
	if to.Authority != "" {
		trusted := x509.NewCertPool()
		if !trusted.AppendCertsFromPEM([]byte(to.Authority)) {
			return errors.New("the authority to trust is not a certificate in PEM")
		}
		settings.TLSConfig = &tls.Config{RootCAs: trusted}
	}
	a.mutex.Lock()
	if len(a.state.ConfigHash) > 0 {
		settings.RemoteConfigStatus = &protobufs.RemoteConfigStatus{
			LastRemoteConfigHash: a.state.ConfigHash,
			Status:               protobufs.RemoteConfigStatuses(a.state.ConfigStatus),
		}
	}
	uid := a.state.Uid
	connected := make(chan struct{}, 1)
	a.client, a.connected = made, connected
	a.mutex.Unlock()
	if err := setUid(&settings, uid); err != nil {
		return err
	}
	setHeartbeat(&settings, a.options.heartbeat)
	settings.Callbacks = callbacks(&events{agent: a, connection: to, connected: connected})
	description := &protobufs.AgentDescription{
		IdentifyingAttributes:    attributes(a.options.identifying),
		NonIdentifyingAttributes: attributes(a.options.other),
	}
	if err := made.SetAgentDescription(description); err != nil {
		return err
	}
	if err := setHealth(made, a.begun); err != nil {
		return err
	}
	say("connecting", fields{"over": over, "url": to.URL, "credential": fingerprint(to.Headers)})
	return made.Start(ctx, settings)
}

// stop ends the client that runs.
func (a *agent) stop() {
	a.mutex.Lock()
	running := a.client
	a.mutex.Unlock()
	// The agent's own context may have ended already, and a client still says goodbye.
	ctx, cancel := context.WithTimeout(context.Background(), stopTime)
	defer cancel()
	if err := running.Stop(ctx); err != nil {
		say("stop_failed", fields{"error": err.Error()})
	}
}

// adopt goes over to an offered connection, and back when that does not come about.
func (a *agent) adopt(ctx context.Context, offered connection, hash []byte) {
	a.mutex.Lock()
	before := a.state.Connection
	a.mutex.Unlock()
	a.stop()
	err := a.start(ctx, offered)
	if err == nil {
		a.mutex.Lock()
		connected := a.connected
		a.mutex.Unlock()
		select {
		case <-connected:
			a.remember(func(kept *state) { kept.Connection = offered })
			a.confirm(hash)
			say("adopted", fields{"credential": fingerprint(offered.Headers)})
			return
		case <-time.After(trialTime):
			err = errors.New("no connection in time")
		case <-ctx.Done():
			return
		}
	}
	say("not_adopted", fields{"error": err.Error()})
	a.stop()
	if err := a.start(ctx, before); err != nil {
		say("error", fields{"error": err.Error()})
	}
}

// confirm says that offered settings are in use, where the application has to and the release lets it.
func (a *agent) confirm(hash []byte) {
	a.mutex.Lock()
	running := a.client
	a.mutex.Unlock()
	if err := confirmSettings(running, hash); err != nil {
		say("error", fields{"error": err.Error()})
	}
}

// configure does with a remote configuration what the flags say.
func (a *agent) configure(ctx context.Context, received *protobufs.AgentRemoteConfig) {
	files := map[string]string{}
	for name, file := range received.GetConfig().GetConfigMap() {
		files[name] = string(file.GetBody())
	}
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	sort.Strings(names)
	say("config", fields{"hash": hex.EncodeToString(received.GetConfigHash()), "files": names})
	a.mutex.Lock()
	running := a.client
	a.mutex.Unlock()
	report := func(status int32, message string) {
		a.remember(func(kept *state) {
			kept.ConfigHash, kept.ConfigStatus = received.GetConfigHash(), status
			if status == configApplied {
				kept.Config = files
			}
		})
		err := running.SetRemoteConfigStatus(&protobufs.RemoteConfigStatus{
			LastRemoteConfigHash: received.GetConfigHash(),
			Status:               protobufs.RemoteConfigStatuses(status),
			ErrorMessage:         message,
		})
		if err != nil {
			say("error", fields{"error": err.Error()})
		}
	}
	switch a.options.onConfig {
	case "fail":
		report(configFailed, "this agent was told to fail")
	case "apply":
		report(configApplying, "")
		report(configApplied, "")
		if err := running.UpdateEffectiveConfig(ctx); err != nil {
			say("error", fields{"error": err.Error()})
		}
	}
}

// remember changes the state and keeps it.
func (a *agent) remember(change func(*state)) {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	change(&a.state)
	if err := a.state.save(a.options.stateFile); err != nil {
		say("error", fields{"error": err.Error()})
	}
}

// effective is the configuration that the agent runs.
func (a *agent) effective() map[string]string {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	if len(a.state.Config) > 0 {
		return a.state.Config
	}
	return map[string]string{"built-in": "receivers: {nop: {}}\nexporters: {nop: {}}\nservice: {pipelines: {logs: {receivers: [nop], exporters: [nop]}}}\n"}
}

func attributes(of map[string]string) []*protobufs.KeyValue {
	var list []*protobufs.KeyValue
	for name, value := range of {
		list = append(list, &protobufs.KeyValue{
			Key:   name,
			Value: &protobufs.AnyValue{Value: &protobufs.AnyValue_StringValue{StringValue: value}},
		})
	}
	sort.Slice(list, func(one, other int) bool { return list[one].Key < list[other].Key })
	return list
}

// events is what happens on one connection, whichever release tells it.
type events struct {
	agent      *agent
	connection connection
	connected  chan struct{}
}

func (e *events) onConnect() {
	say("connected", fields{"credential": fingerprint(e.connection.Headers)})
	select {
	case e.connected <- struct{}{}:
	default:
	}
}

func (e *events) onConnectFailed(err error) {
	say("connect_failed", fields{"error": err.Error(), "credential": fingerprint(e.connection.Headers)})
}

func (e *events) onError(answer *protobufs.ServerErrorResponse) {
	say("server_error", fields{"kind": answer.GetType().String(), "error": answer.GetErrorMessage()})
}

// onMessage is called for every answer of the server, also for an empty one.
func (e *events) onMessage(ctx context.Context, message *types.MessageData) {
	say("answer", nil)
	if message.AgentIdentification != nil {
		uid := offeredUid(message.AgentIdentification)
		e.agent.remember(func(kept *state) { kept.Uid = uid })
		say("uid", fields{"uid": uid})
	}
	if message.RemoteConfig != nil {
		e.agent.configure(ctx, message.RemoteConfig)
	}
}

func (e *events) onOffer(settings *protobufs.OpAMPConnectionSettings, hash []byte) error {
	offered := e.connection
	if settings.GetDestinationEndpoint() != "" {
		offered.URL = settings.GetDestinationEndpoint()
	}
	if list := settings.GetHeaders().GetHeaders(); len(list) > 0 {
		offered.Headers = map[string]string{}
		for _, header := range list {
			offered.Headers[header.GetKey()] = header.GetValue()
		}
	}
	authority := offeredAuthority(settings)
	if authority != "" {
		offered.Authority = authority
	}
	say("offer", fields{
		"url":           settings.GetDestinationEndpoint(),
		"credential":    fingerprint(offered.Headers),
		"has_authority": strings.Contains(authority, "BEGIN CERTIFICATE"),
	})
	switch e.agent.options.onOffer {
	case "reject":
		return errors.New("this agent was told to reject offers")
	case "adopt":
		e.agent.todo <- func(ctx context.Context) { e.agent.adopt(ctx, offered, hash) }
	}
	return nil
}

func (e *events) onCommand(command *protobufs.ServerToAgentCommand) error {
	say("command", fields{"kind": command.GetType().String()})
	e.agent.todo <- func(ctx context.Context) {
		e.agent.stop()
		e.agent.mutex.Lock()
		again := e.agent.state.Connection
		e.agent.mutex.Unlock()
		if err := e.agent.start(ctx, again); err != nil {
			say("error", fields{"error": err.Error()})
		}
	}
	return nil
}

func (e *events) onConfigStatus(status *protobufs.RemoteConfigStatus) {
	say("config_status", fields{"status": status.GetStatus().String()})
}
