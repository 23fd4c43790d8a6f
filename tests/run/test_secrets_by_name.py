"""Secrets are told by their names; what a trainer needs is not taken for one."""

import pytest

from k2.run.secrets import names_secret, without_secrets

SECRETS = (
    *("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "GH_TOKEN"),
    *("DB_PASS", "PASS", "PASSPHRASE", "GPG_PASSPHRASE", "PGPASSWORD", "MYSQL_PWD", "SENTRY_DSN", "DATABASE_URL", "SSH_PRIVATE_KEY"),
    *("SSH_PRIVATE_KEY_FILE", "NPM_AUTH", "PREFECT_API_AUTH_STRING", "SSH_AUTH_SOCK", "AZURE_STORAGE_KEY", "openai_apikey"),
    *("AZURE_STORAGE_CONNECTION_STRING", "GOOGLE_APPLICATION_CREDENTIALS"),
)
NEEDED = (
    *("PATH", "HOME", "PWD", "OLDPWD", "LD_LIBRARY_PATH", "PYTHONPATH", "OMP_NUM_THREADS", "NCCL_SOCKET_IFNAME", "CUDA_VISIBLE_DEVICES"),
    *("TOKENIZERS_PARALLELISM", "GIT_AUTHOR_NAME", "HF_HOME", "WANDB_BASE_URL", "COMPASS_HOME", "TMPDIR", "VIRTUAL_ENV"),
)


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_is_known_by_its_name(name: str) -> None:
    assert names_secret(name)
    assert without_secrets({name: "x"}) == {}


@pytest.mark.parametrize("name", NEEDED)
def test_what_a_process_needs_is_handed_down(name: str) -> None:
    assert without_secrets({name: "x"}) == {name: "x"}


def test_the_settings_of_services_stay_behind_though_they_are_no_secrets() -> None:
    assert without_secrets({"AWS_REGION": "x", "PREFECT_API_URL": "y"}) == {}
    assert not names_secret("AWS_REGION")
