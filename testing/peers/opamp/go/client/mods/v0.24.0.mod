module muster.invalid/peers/opamp-client

go 1.25.0

require (
	github.com/google/uuid v1.6.0
	github.com/oklog/ulid/v2 v2.1.2
	github.com/open-telemetry/opamp-go v0.24.0
)

require (
	github.com/cenkalti/backoff/v4 v4.3.0 // indirect
	github.com/elastic/proxy-connect-dialer-go v0.1.1 // indirect
	github.com/gorilla/websocket v1.5.3 // indirect
	github.com/stretchr/testify v1.12.0 // indirect
	google.golang.org/protobuf v1.36.11 // indirect
	gopkg.in/yaml.v3 v3.0.1 // indirect
)

// The module moved to a new path, under which not every proxy holds it; the code is the same.
replace github.com/elastic/proxy-connect-dialer-go => github.com/michel-laterman/proxy-connect-dialer-go v0.1.0
