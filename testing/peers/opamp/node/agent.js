// An agent on @elastic/opamp-client-node, for tests: prints one JSON line for everything that happens to it.
//
// The client speaks plain HTTP, takes no connection settings, and leaves configurations to its application.
'use strict';

const {createHash} = require('node:crypto');
const {subscribe} = require('node:diagnostics_channel');
const {readFileSync} = require('node:fs');
const {parseArgs} = require('node:util');

const {AgentCapabilities, RemoteConfigStatuses, createOpAMPClient} = require('@elastic/opamp-client-node');

const say = (event, about = {}) =>
    process.stdout.write(JSON.stringify({event, at: new Date().toISOString(), ...about}) + '\n');

const pairs = (list, separator) =>
    Object.fromEntries(
        list.map(text => {
            const at = text.indexOf(separator);
            if (at < 0) {
                throw new Error(`${text}: write NAME${separator}VALUE`);
            }
            return [text.slice(0, at).trim(), text.slice(at + 1).trim()];
        })
    );

const {values} = parseArgs({
    options: {
        url: {type: 'string'},
        header: {type: 'string', multiple: true, default: []},
        ca: {type: 'string'},
        uid: {type: 'string'},
        identifying: {type: 'string', multiple: true, default: []},
        other: {type: 'string', multiple: true, default: []},
        'on-config': {type: 'string', default: 'apply'},
        heartbeat: {type: 'string', default: '30'},
    },
});
const onConfig = values['on-config'];
if (!values.url || !['apply', 'fail', 'ignore'].includes(onConfig)) {
    process.stderr.write('error: --url is needed, and --on-config is apply, fail or ignore\n');
    process.exit(2);
}
const headers = pairs(values.header, ':');
const authorization = Object.entries(headers).find(([name]) => name.toLowerCase() === 'authorization');
const secret = authorization ? authorization[1].split(' ').pop() : '';
const credential = secret ? createHash('sha256').update(secret).digest('hex').slice(0, 12) : '';

subscribe('opamp-client.send.success', () => {
    say('connected', {credential});
    say('answer');
});
subscribe('opamp-client.send.fail', ({err}) => say('connect_failed', {error: String(err), credential}));

const client = createOpAMPClient({
    endpoint: values.url,
    headers,
    instanceUid: values.uid,
    heartbeatIntervalSeconds: Number(values.heartbeat),
    connect: values.ca ? {ca: readFileSync(values.ca)} : undefined,
    capabilities:
        AgentCapabilities.AgentCapabilities_AcceptsRemoteConfig | AgentCapabilities.AgentCapabilities_ReportsRemoteConfig,
    diagEnabled: true,
    onMessage: ({remoteConfig}) => {
        const files = Object.keys(remoteConfig.config?.configMap ?? {}).sort();
        say('config', {hash: Buffer.from(remoteConfig.configHash).toString('hex'), files});
        if (onConfig === 'ignore') {
            return;
        }
        const applies = onConfig === 'apply';
        client.setRemoteConfigStatus({
            lastRemoteConfigHash: remoteConfig.configHash,
            status: applies ? RemoteConfigStatuses.RemoteConfigStatuses_APPLIED : RemoteConfigStatuses.RemoteConfigStatuses_FAILED,
            errorMessage: applies ? '' : 'this agent was told to fail',
        });
    },
});
client.setAgentDescription({
    identifyingAttributes: pairs(values.identifying, '='),
    nonIdentifyingAttributes: pairs(values.other, '='),
});
say('started', {release: require('@elastic/opamp-client-node/package.json').version});
say('connecting', {over: 'http', url: values.url, credential});
client.start();

// The client's own timers do not keep a process alive.
const alive = setInterval(() => {}, 60_000);
for (const signal of ['SIGINT', 'SIGTERM']) {
    process.once(signal, async () => {
        clearInterval(alive);
        await client.shutdown();
        say('stopped');
        process.exit(0);
    });
}
