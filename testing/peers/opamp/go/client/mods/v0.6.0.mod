module muster.invalid/peers/opamp-client

go 1.25.0

require (
	github.com/google/uuid v1.6.0
	github.com/oklog/ulid/v2 v2.0.2
	github.com/open-telemetry/opamp-go v0.6.0
)

require (
	github.com/cenkalti/backoff/v4 v4.1.2 // indirect
	github.com/davecgh/go-spew v1.1.1 // indirect
	github.com/gorilla/websocket v1.4.2 // indirect
	github.com/pmezard/go-difflib v1.0.0 // indirect
	github.com/stretchr/testify v1.7.0 // indirect
	google.golang.org/protobuf v1.27.1 // indirect
	gopkg.in/yaml.v3 v3.0.0-20200313102051-9f266ea9e77c // indirect
)
