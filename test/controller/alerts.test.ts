// The rules for Prometheus: read by promtool, and fired on series as the controller writes them.
import { execFile } from 'node:child_process';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';
import { parse, stringify } from 'yaml';
import { tempdir } from '../support/tempdir.ts';
import { tool } from '../support/tools.ts';

interface Rules {
  readonly spec: {
    readonly groups: readonly { readonly rules: readonly { readonly alert?: string; readonly for?: string }[] }[];
  };
}

const INFO = (labels: string): string => `kubevirt_cdi_storageprofile_info{storageclass="a",provisioner="p",${labels}}`;

/** Alert → series on which it fires, and on which it does not. */
const CASES: Readonly<
  Record<string, { readonly fires: readonly [string, string][]; readonly quiet: readonly [string, string][] }>
> = {
  CDINotReady: { fires: [['kubevirt_cdi_cr_ready', '0']], quiet: [['kubevirt_cdi_cr_ready', '1']] },
  CDIDataVolumeUnusualRestartCount: {
    fires: [['kube_pod_container_status_restarts_total{pod="importer-disk",container="importer"}', '4']],
    quiet: [['kube_pod_container_status_restarts_total{pod="importer-disk",container="importer"}', '3']],
  },
  CDIStorageProfilesIncomplete: {
    fires: [[INFO('complete="false"'), '1']],
    quiet: [[INFO('complete="true"'), '1']],
  },
  CDINoDefaultStorageClass: {
    fires: [
      ['kubevirt_cdi_datavolume_pending', '2'],
      [INFO('default="false",virtdefault="false"'), '1'],
    ],
    quiet: [
      ['kubevirt_cdi_datavolume_pending', '2'],
      [INFO('default="true",virtdefault="false"'), '1'],
    ],
  },
  CDIMultipleDefaultVirtStorageClasses: {
    fires: [
      [INFO('virtdefault="true",n="1"'), '1'],
      [INFO('virtdefault="true",n="2"'), '1'],
    ],
    quiet: [[INFO('virtdefault="true",n="1"'), '1']],
  },
  CDIDefaultStorageClassDegraded: {
    fires: [[INFO('default="true",virtdefault="false",degraded="true"'), '1']],
    quiet: [[INFO('default="true",virtdefault="false",degraded="false"'), '1']],
  },
};

test('every alert fires when it should, and only then', async () => {
  await using home = await tempdir();
  const at = (name: string): string => join(home.path, name);
  const { spec } = parse(await readFile('deploy/monitoring/rules.yaml', 'utf8')) as Rules;
  const alerts = spec.groups.flatMap(({ rules }) => rules.flatMap(({ alert }) => alert ?? []));
  expect(alerts).toEqual(Object.keys(CASES));
  await writeFile(at('rules.yaml'), stringify(spec));
  const tests = Object.entries(CASES).flatMap(([alert, { fires, quiet }]) =>
    [fires, quiet].map((series, n) => ({
      interval: '1m',
      input_series: series.map(([name, value]) => ({ series: name, values: `${value}x20` })),
      // The labels of what fires are the rule's and the series': that it fires is the question.
      promql_expr_test: [
        {
          expr: `count(ALERTS{alertname="${alert}",alertstate="firing"}) or vector(0)`,
          eval_time: '15m',
          exp_samples: [{ labels: '{}', value: n === 0 ? 1 : 0 }],
        },
      ],
    })),
  );
  await writeFile(at('test.yaml'), stringify({ rule_files: ['rules.yaml'], evaluation_interval: '1m', tests }));
  const { stdout } = await promisify(execFile)(tool('promtool', 'prometheus'), [
    'test',
    'rules',
    at('test.yaml'),
  ]).catch((error: { stdout: string; stderr: string }) => {
    throw new Error(`${error.stdout}${error.stderr}`);
  });
  expect(stdout).toContain('SUCCESS');
});
