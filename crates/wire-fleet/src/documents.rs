//! Parts of answers that only Fleet has, with everything off.
//!
//! Clients look members up in them without asking whether they are there.

use serde_json::{Value, json};

/// `mdm` of the configuration.
pub fn mdm() -> Value {
    json!({
        "apple_server_url": "",
        "apple_business_manager": [],
        "apple_bm_enabled_and_configured": false,
        "apple_bm_terms_expired": false,
        "enabled_and_configured": false,
        "macos_updates": {"minimum_version": null, "deadline": null},
        "ios_updates": {"minimum_version": null, "deadline": null},
        "ipados_updates": {"minimum_version": null, "deadline": null},
        "windows_updates": {"deadline_days": null, "grace_period_days": null},
        "macos_settings": {"custom_settings": null},
        "macos_setup": macos_setup(json!([])),
        "macos_migration": {"enable": false, "mode": "", "webhook_url": ""},
        "windows_migration_enabled": false,
        "end_user_authentication": {
            "entity_id": "", "issuer_uri": "", "metadata": "", "metadata_url": "", "idp_name": "",
        },
        "windows_enabled_and_configured": false,
        "enable_disk_encryption": false,
        "windows_settings": {"custom_settings": []},
        "volume_purchasing_program": [],
    })
}

fn macos_setup(software: Value) -> Value {
    json!({
        "bootstrap_package": null,
        "enable_end_user_authentication": false,
        "macos_setup_assistant": null,
        "enable_release_device_manually": false,
        "script": null,
        "software": software,
    })
}

/// `mdm` of a team.
pub fn team_mdm() -> Value {
    json!({
        "enable_disk_encryption": false,
        "macos_updates": {"minimum_version": null, "deadline": null},
        "ios_updates": {"minimum_version": null, "deadline": null},
        "ipados_updates": {"minimum_version": null, "deadline": null},
        "windows_updates": {"deadline_days": null, "grace_period_days": null},
        "macos_settings": {"custom_settings": null},
        "macos_setup": macos_setup(Value::Null),
        "windows_settings": {"custom_settings": null},
    })
}

/// `smtp_settings` of the configuration.
pub fn smtp() -> Value {
    json!({
        "enable_smtp": false,
        "configured": false,
        "sender_address": "",
        "server": "",
        "port": 587,
        "authentication_type": "authtype_username_password",
        "user_name": "",
        "password": "",
        "enable_ssl_tls": true,
        "authentication_method": "authmethod_plain",
        "domain": "",
        "verify_ssl_certs": true,
        "enable_start_tls": true,
    })
}

/// `sso_settings` of the configuration.
pub fn sso() -> Value {
    json!({
        "entity_id": "",
        "issuer_uri": "",
        "metadata": "",
        "metadata_url": "",
        "idp_name": "",
        "idp_image_url": "",
        "enable_sso": false,
        "enable_sso_idp_login": false,
        "enable_jit_provisioning": false,
        "enable_jit_role_sync": false,
    })
}

fn failing_policies_webhook() -> Value {
    json!({
        "enable_failing_policies_webhook": false,
        "destination_url": "",
        "policy_ids": null,
        "host_batch_size": 0,
    })
}

/// `webhook_settings` of the configuration.
pub fn webhooks() -> Value {
    json!({
        "activities_webhook": {"enable_activities_webhook": false, "destination_url": ""},
        "host_status_webhook": {
            "enable_host_status_webhook": false, "destination_url": "", "host_percentage": 0, "days_count": 0,
        },
        "failing_policies_webhook": failing_policies_webhook(),
        "vulnerabilities_webhook": {
            "enable_vulnerabilities_webhook": false, "destination_url": "", "host_batch_size": 0,
        },
        "interval": "24h0m0s",
    })
}

/// `webhook_settings` of a team.
pub fn team_webhooks() -> Value {
    json!({
        "host_status_webhook": null,
        "failing_policies_webhook": failing_policies_webhook(),
    })
}

/// `integrations` of the configuration.
pub fn integrations() -> Value {
    json!({"jira": null, "zendesk": null, "google_calendar": null, "ndes_scep_proxy": null})
}

/// `integrations` of a team.
pub fn team_integrations() -> Value {
    json!({"jira": null, "zendesk": null, "google_calendar": null})
}

/// `vulnerabilities` of the configuration: nothing is looked for.
pub fn vulnerabilities() -> Value {
    json!({
        "databases_path": "",
        "periodicity": 0,
        "cpe_database_url": "",
        "cpe_translations_url": "",
        "cve_feed_prefix_url": "",
        "current_instance_checks": "no",
        "disable_data_sync": true,
        "recent_vulnerability_max_age": 0,
        "disable_win_os_vulnerabilities": true,
    })
}

/// `vulnerability_settings` of the configuration.
pub fn vulnerability_settings() -> Value {
    json!({"databases_path": ""})
}

/// `logging` of the configuration: results and status logs go to files, whose places are nobody's business.
pub fn logging() -> Value {
    let files = json!({
        "plugin": "filesystem",
        "config": {
            "status_log_file": "",
            "result_log_file": "",
            "audit_log_file": "",
            "enable_log_rotation": true,
            "enable_log_compression": false,
            "max_size": 500,
            "max_age": 28,
            "max_backups": 3,
        },
    });
    json!({
        "debug": false,
        "json": false,
        "result": files,
        "status": files,
        "audit": {"plugin": "", "config": null},
    })
}
